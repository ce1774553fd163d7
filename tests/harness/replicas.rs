//! Real replication: standbys of PostgreSQL, replicas of MariaDB, and a primary that becomes a standby.

use std::{fs, process::Command};

use super::{
    databases::{MariaDb, quiet_ports},
    servers::{PASSWORD, Postgres, Server, command, directory, family, other_user, settings, signal},
};

impl Postgres {
    /// A hot standby that streams from it.
    pub fn standby(&self) -> Self {
        let user = other_user();
        let directory = directory(user);
        let data = directory.path().join("data");
        let copied = command(&self.programs.join("pg_basebackup"), user)
            .env("PGPASSWORD", PASSWORD)
            .args(["-h", "127.0.0.1", "-U", "keymoot", "-p", &self.port.to_string()])
            .args(["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let [port] = quiet_ports();
        let (program, log) = (self.programs.join("postgres"), directory.path().join("log"));
        let server = Server { program, arguments: settings(&data, port), log, user, child: None };
        let mut standby = Self { server, programs: self.programs.clone(), port, _directory: directory };
        standby.restart();
        standby
    }

    /// Makes a standby of it, of nobody, as when another server took over.
    pub fn demote(&mut self) {
        fs::write(self._directory.path().join("data/standby.signal"), "").unwrap();
        self.restart();
    }

    /// A signal to those of its processes whose title holds this, such as `walreceiver`.
    pub fn signal_processes(&self, title: &str, name: &str) {
        let has_title = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(title)
        };
        let found: Vec<u32> =
            family(self.server.child.as_ref().unwrap().id()).into_iter().filter(has_title).collect();
        assert!(!found.is_empty(), "no process {title}");
        signal(name, &found);
    }

    /// `pgbench` with so many clients that run this script over and over.
    pub fn bench(&self, clients: usize, script: &str) -> Load {
        let file = self._directory.path().join(format!("script{clients}"));
        fs::write(&file, script).unwrap();
        let mut bench = Command::new(self.programs.join("pgbench"));
        bench.env("PGPASSWORD", PASSWORD).args(["-h", "127.0.0.1", "-U", "keymoot", "-p", &self.port.to_string()]);
        bench
            .args(["--no-vacuum", "--time=600", "--jobs=2", &format!("--client={clients}")])
            .arg("--file")
            .arg(file);
        Load(bench.arg("postgres").stdout(std::process::Stdio::null()).spawn().unwrap())
    }
}

/// Clients that work until this is dropped.
pub struct Load(std::process::Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl MariaDb {
    /// One that others can replicate.
    pub fn primary() -> Self {
        Self::start_with(&["--server-id=1", "--log-bin=binlog", "--binlog-format=ROW"])
    }

    /// A replica of it, which nobody else writes to.
    pub fn replica(&self) -> Self {
        let replica = Self::start_with(&["--server-id=2", "--read-only=1"]);
        replica.sql(&format!(
            "CHANGE MASTER TO master_host = '127.0.0.1', master_port = {}, master_user = 'keymoot', \
             master_password = '{PASSWORD}', master_use_gtid = slave_pos, master_connect_retry = 1; START SLAVE",
            self.address().port()
        ));
        replica
    }
}
