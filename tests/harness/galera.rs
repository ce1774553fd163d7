//! A Galera cluster of three MariaDB nodes on loopback, which loses up to a second of commits where all nodes die:
//! as Galera's documentation recommends it, no node waits for its disk.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    databases::{Connection, arguments, install, quiet_ports, sql, try_sql, url},
    network::Network,
    servers::{Server, belongs_to, command, other_user},
};

/// Nodes that copy a database from each other take their time on a busy machine.
const LONG: Duration = Duration::from_secs(180);

pub struct Galera {
    nodes: Vec<Node>,
    /// `None`: all on loopback.
    network: Option<Network>,
    reaper: Reaper,
}

struct Node {
    server: Server,
    address: SocketAddr,
}

impl Galera {
    /// The cluster that all tests of this process share, whole again whatever the last one did to it.
    pub fn shared() -> MutexGuard<'static, Option<Self>> {
        static SHARED: Mutex<Option<Galera>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.get_or_insert_with(|| Self::start(None)).heal();
        shared
    }

    /// Another one, whose nodes have a network each where this user may make them.
    pub fn apart() -> MutexGuard<'static, Option<Self>> {
        static APART: Mutex<Option<Galera>> = Mutex::new(None);
        let mut apart = APART.lock().unwrap_or_else(PoisonError::into_inner);
        let network = || {
            let made = Network::new(3);
            if let Err(reason) = &made {
                println!("no networks for the nodes, so each cuts itself off by gmcast.isolate: {reason}");
            }
            made.ok()
        };
        apart.get_or_insert_with(|| Self::start(network())).heal();
        apart
    }

    fn start(network: Option<Network>) -> Self {
        let user = other_user();
        // On a disk: of a log in /dev/shm a server takes every write for durable at once, and no crash loses anything.
        let directory = tempfile::tempdir().unwrap();
        belongs_to(directory.path(), user);
        let ports: [u16; 12] = quiet_ports();
        let at = |of: fn(&Network, u8) -> Ipv4Addr, n: usize| {
            network.as_ref().map_or(Ipv4Addr::LOCALHOST, |network| of(network, u8::try_from(n).unwrap()))
        };
        let group: Vec<_> = (0..3).map(|n| format!("{}:{}", at(Network::group, n), ports[n + 3])).collect();
        let data = |n: usize| directory.path().join(format!("node{n}"));
        install(directory.path(), &data(0), user);
        let nodes = (0..3).map(|n| {
            let address = SocketAddr::new(IpAddr::V4(at(Network::client, n)), ports[n]);
            let (host, group) = (at(Network::group, n), group.join(","));
            let [group_port, ist, sst] = [ports[n + 3], ports[n + 6], ports[n + 9]];
            fs::create_dir_all(data(n)).unwrap();
            belongs_to(&data(n), user);
            let mut arguments = arguments(&data(n), address);
            arguments.extend([
                "--innodb-flush-log-at-trx-commit=0".to_owned(),
                // Processes are killed here, not machines.
                "--innodb-flush-method=nosync".to_owned(),
                "--binlog-format=ROW".to_owned(),
                "--innodb-autoinc-lock-mode=2".to_owned(),
                "--wsrep-on=ON".to_owned(),
                "--wsrep-provider=/usr/lib/galera/libgalera_smm.so".to_owned(),
                format!("--wsrep-node-name=node{n}"),
                format!("--wsrep-cluster-address=gcomm://{group}"),
                format!("--wsrep-node-address={host}:{group_port}"),
                format!("--wsrep-node-incoming-address={address}"),
                "--wsrep-sst-method=rsync".to_owned(),
                format!("--wsrep-sst-receive-address={host}:{sst}"),
                "--wsrep-slave-threads=2".to_owned(),
                format!(
                    "--wsrep-provider-options=gmcast.listen_addr=tcp://{host}:{group_port};\
                     ist.recv_addr={host}:{ist};gcache.size=16M;repl.causal_read_timeout=PT10S;\
                     evs.suspect_timeout=PT8S;evs.inactive_timeout=PT20S"
                ),
            ]);
            let log = directory.path().join(format!("log{n}"));
            let mut server = Server { program: "/usr/sbin/mariadbd".into(), arguments, log, user, child: None };
            if let Some(network) = &network {
                network.enclose(u8::try_from(n).unwrap(), &mut server);
            }
            Node { server, address }
        });
        let nodes = nodes.collect();
        if let Some(network) = &network {
            network.leave(&directory.path().join("clean"));
        }
        let reaper = Reaper::new(directory);
        let mut galera = Self { nodes, network, reaper };
        galera.form(0);
        galera
    }

    /// The first node makes a cluster of its own data, the others join it.
    fn form(&mut self, first: usize) {
        self.begin(first, &["--wsrep-new-cluster".to_owned()]);
        self.until(first, |status| status == "Synced Primary 1");
        for n in (0..3).filter(|n| *n != first) {
            self.begin(n, &[]);
            self.until(n, |status| status.starts_with("Synced Primary"));
        }
        self.until_whole();
    }

    fn begin(&mut self, node: usize, more: &[String]) {
        let node = &mut self.nodes[node];
        let plain = node.server.arguments.clone();
        node.server.arguments.extend_from_slice(more);
        node.server.start();
        node.server.arguments = plain;
        self.reaper.minds(&self.nodes);
    }

    pub fn until_whole(&self) {
        (0..3).for_each(|n| self.until(n, |status| status == "Synced Primary 3"));
    }

    /// Waits for a state such as `Synced Primary 3`.
    pub fn until(&self, node: usize, is: impl Fn(&str) -> bool) {
        let end = Instant::now() + LONG;
        loop {
            let status = self.status(node);
            if is(&status) {
                return;
            }
            let log = &self.nodes[node].server.log;
            assert!(
                Instant::now() < end,
                "node {node} is {status}: {}",
                fs::read_to_string(log).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn status(&self, node: usize) -> String {
        let asked = "SELECT GROUP_CONCAT(variable_value ORDER BY variable_name DESC SEPARATOR ' ') \
             FROM information_schema.global_status WHERE variable_name \
             IN ('wsrep_local_state_comment', 'wsrep_cluster_status', 'wsrep_cluster_size')";
        try_sql(self.nodes[node].address, asked).unwrap_or_else(|| "silent".to_owned())
    }

    pub fn url(&self, node: usize) -> String {
        url(self.nodes[node].address)
    }

    /// As the nodes themselves say it.
    pub fn address(&self, node: usize) -> String {
        self.nodes[node].address.to_string()
    }

    /// What the client prints for statements on one node, which has applied all that was committed before on any.
    pub fn sql(&self, node: usize, statements: &str) -> String {
        sql(self.nodes[node].address, &format!("SET SESSION wsrep_sync_wait = 15; {statements}"))
    }

    /// Whether a node does not take a statement.
    pub fn refuses(&self, node: usize, statement: &str) -> bool {
        try_sql(self.nodes[node].address, statement).is_none()
    }

    pub fn connect(&self, node: usize) -> Connection {
        Connection::open(self.nodes[node].address)
    }

    pub fn pause(&self, node: usize) {
        self.nodes[node].server.signal("-STOP");
    }

    pub fn go_on(&self, node: usize) {
        self.nodes[node].server.signal("-CONT");
    }

    /// The node's cluster traffic is cut, both ways; its clients still reach it.
    pub fn isolate(&self, node: usize) {
        match &self.network {
            Some(network) => network.link(u8::try_from(node).unwrap(), "down"),
            None => drop(sql(self.nodes[node].address, "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")),
        }
    }

    /// It hears the others again, if it runs.
    fn join(&self, node: usize) {
        let address = self.nodes[node].address;
        match &self.network {
            Some(network) => network.link(u8::try_from(node).unwrap(), "up"),
            None => drop(try_sql(address, "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")),
        }
    }

    /// What this node has is the cluster's, whoever else is away: as an administrator decides it.
    pub fn bootstrap(&self, node: usize) {
        sql(self.nodes[node].address, "SET GLOBAL wsrep_provider_options = 'pc.bootstrap=1'");
    }

    pub fn kill(&mut self, node: usize) {
        self.nodes[node].server.kill();
    }

    /// All three at once: one signal behind the other, and waited for only then.
    pub fn kill_all(&mut self) {
        (0..3).for_each(|n| self.nodes[n].server.signal("-KILL"));
        (0..3).for_each(|n| self.kill(n));
    }

    /// A cluster again of what the dead nodes have on their disks: the one that got furthest begins.
    pub fn recover(&mut self) {
        let positions: Vec<_> = (0..3).map(|n| self.position(n)).collect();
        let furthest = (0..3).max_by_key(|n| positions[*n].1).unwrap();
        let state = self.data(furthest).join("grastate.dat");
        let text = fs::read_to_string(&state).unwrap();
        fs::write(&state, text.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1")).unwrap();
        self.form(furthest);
    }

    /// The last transaction that a dead node finds on its disk.
    fn position(&mut self, node: usize) -> (String, i64) {
        let log = self.nodes[node].server.log.with_extension("recover");
        let _old = fs::remove_file(&log);
        let server = &self.nodes[node].server;
        let done = command(&server.program, server.user)
            .args(&server.arguments)
            .arg("--wsrep-recover")
            .arg(format!("--log-error={}", log.display()))
            .output()
            .unwrap()
            .status;
        let log = fs::read_to_string(log).unwrap();
        let found = log.lines().rev().find_map(|line| line.split_once("Recovered position: "));
        let (cluster, number) = found.and_then(|(_, position)| position.trim().split_once(':')).expect(&log);
        assert!(done.success(), "{log}");
        // Behind the number may stand a position of the binary log.
        let number = number.split(',').next().unwrap().parse().unwrap();
        (cluster.to_owned(), number)
    }

    fn data(&self, node: usize) -> PathBuf {
        self.reaper.directory.path().join(format!("node{node}"))
    }

    /// Three nodes that are one cluster, and no table of an earlier test.
    fn heal(&mut self) {
        self.rejoin();
        self.sql(0, "DROP DATABASE app; CREATE DATABASE app");
    }

    /// Starts those that are dead, and waits until all three are one cluster.
    pub fn rejoin(&mut self) {
        for n in 0..3 {
            if self.nodes[n].server.child.is_some() {
                self.go_on(n);
            }
            self.join(n);
        }
        let dead: Vec<_> = (0..3).filter(|n| self.nodes[*n].server.child.is_none()).collect();
        match dead.len() {
            3 => self.recover(),
            _ => dead.into_iter().for_each(|n| self.begin(n, &[])),
        }
        self.until_whole();
    }
}

/// Ends the nodes, and removes their files, when this process is gone: what is static is never dropped.
struct Reaper {
    directory: TempDir,
    _alive: Child,
}

impl Reaper {
    fn new(directory: TempDir) -> Self {
        // It reads until this process, and its end of the pipe with it, is gone.
        let script = "read -r _; kill -9 $(cat \"$0/pids\"); sleep 1; sh \"$0/clean\"; rm -rf \"$0\"";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).arg(directory.path()).stdin(Stdio::piped()).stdout(Stdio::null());
        let _alive = command.stderr(Stdio::null()).process_group(0).spawn().unwrap();
        Self { directory, _alive }
    }

    fn minds(&self, nodes: &[Node]) {
        let pids = nodes.iter().filter_map(|node| Some(node.server.child.as_ref()?.id().to_string()));
        fs::write(self.directory.path().join("pids"), pids.collect::<Vec<_>>().join("\n")).unwrap();
    }
}
