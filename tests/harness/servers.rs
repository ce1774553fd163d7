//! Real servers on free loopback ports, with their files in temporary directories: started, stopped, killed and
//! started again on the same port.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::databases::{Connection, quiet_ports};

use super::PATIENCE;

/// One server process, and how to start it again.
pub(super) struct Server {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) log: PathBuf,
    /// The servers refuse to run as root, and so run as somebody else where the tests are root.
    pub(super) user: Option<(u32, u32)>,
    pub(super) child: Option<Child>,
}

impl Server {
    pub(super) fn start(&mut self) {
        assert!(self.child.is_none());
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = command(&self.program, self.user);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// `kill -9`, of the processes that it started too.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal("-KILL", &family(child.id()));
            let _reaped = child.wait();
        }
    }

    /// Starts it until it stays: what a killed one left may hold it up for a moment.
    pub(super) fn start_until(&mut self, ready: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        self.start();
        while !ready() {
            assert!(Instant::now() < end, "no start: {}", fs::read_to_string(&self.log).unwrap_or_default());
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                self.child = None;
                self.start();
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(super) fn signal(&self, name: &str) {
        signal(name, &family(self.child.as_ref().unwrap().id()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) fn command(program: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    // Nothing of a person's own settings.
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").current_dir("/");
    if let Some((uid, gid)) = user {
        command.gid(gid).uid(uid);
    }
    command
}

pub(super) fn signal(name: &str, processes: &[u32]) {
    let processes = processes.iter().map(u32::to_string);
    let _status = Command::new("kill").arg(name).args(processes).stderr(Stdio::null()).status();
}

/// A process and its children.
pub(super) fn family(parent: u32) -> Vec<u32> {
    let children = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        (fields.nth(1)?.parse() == Ok(parent)).then_some(pid)
    });
    std::iter::once(parent).chain(children).collect()
}

/// Whom to run as: nobody special, where the tests are root.
pub(super) fn other_user() -> Option<(u32, u32)> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    if uid.split_whitespace().nth(1) != Some("0") {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("nobody:")).unwrap();
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

/// In memory where there is such a place: these tests kill processes, not machines.
pub fn directory(user: Option<(u32, u32)>) -> TempDir {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    belongs_to(directory.path(), user);
    directory
}

pub(super) fn belongs_to(path: &Path, user: Option<(u32, u32)>) {
    if let Some((uid, gid)) = user {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A PostgreSQL server with one superuser, `keymoot`, and one database, `postgres`.
pub struct Postgres {
    pub(super) server: Server,
    pub(super) programs: PathBuf,
    pub(super) port: u16,
    pub(super) _directory: TempDir,
}

pub const PASSWORD: &str = "not-for-print";

impl Postgres {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same, with TLS where there is a certificate and its key, in PEM.
    pub fn start_with(tls: Option<(&str, &str)>) -> Self {
        Self::start_in(directory(other_user()), tls, &[])
    }

    /// Where `TMPDIR` is, which is on disk mostly, with settings of its own.
    pub fn start_on_disk(settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        belongs_to(directory.path(), other_user());
        Self::start_in(directory, None, settings)
    }

    fn start_in(directory: TempDir, tls: Option<(&str, &str)>, more: &[&str]) -> Self {
        let programs = newest_postgres();
        let user = other_user();
        let (data, password) = (directory.path().join("data"), directory.path().join("password"));
        fs::write(&password, PASSWORD).unwrap();
        let made = command(&programs.join("initdb"), user)
            .args([
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--auth=scram-sha-256",
                "--username=keymoot",
            ])
            .arg(format!("--pwfile={}", password.display()))
            .arg("-D")
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let [port] = quiet_ports();
        let mut arguments = settings(&data, port);
        arguments.extend(more.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]));
        for (name, file) in tls_files(directory.path(), user, tls) {
            let name = if name == "cert" { "ssl_cert_file" } else { "ssl_key_file" };
            arguments.extend(["-c".to_owned(), "ssl=on".to_owned(), "-c".to_owned(), format!("{name}={file}")]);
        }
        let log = directory.path().join("log");
        let program = programs.join("postgres");
        let server = Server { program, arguments, log, user, child: None };
        let mut postgres = Self { server, programs, port, _directory: directory };
        postgres.restart();
        postgres
    }

    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    pub fn url(&self) -> String {
        self.url_at(self.address())
    }

    /// Of the process that the others are children of.
    pub fn pid(&self) -> u32 {
        self.server.child.as_ref().unwrap().id()
    }

    /// The same server at another address, such as a proxy's.
    pub fn url_at(&self, address: SocketAddr) -> String {
        format!("postgres://keymoot:{PASSWORD}@{address}/postgres")
    }

    /// Kills it, if it runs, and waits until it answers again.
    pub fn restart(&mut self) {
        self.server.kill();
        let (programs, port) = (self.programs.clone(), self.port);
        self.server.start_until(|| try_sql(&programs, port, "SELECT 1").is_some());
    }

    /// From its next start on its clock is off by what a file says, such as `-3600`, by Debian's `libfaketime`.
    pub fn set_clock_by(&mut self, file: &Path) {
        let library = ["/usr/lib", "/usr/lib64"]
            .iter()
            .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
            .map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.exists())
            .expect("libfaketime is installed (apt-get install faketime)");
        let program = std::mem::replace(&mut self.server.program, "/usr/bin/env".into());
        let wrapped = [
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            program.display().to_string(),
        ];
        self.server.arguments.splice(0..0, wrapped);
    }

    pub fn kill(&mut self) {
        self.server.kill();
    }

    pub fn pause(&self) {
        self.server.signal("-STOP");
    }

    pub fn go_on(&self) {
        self.server.signal("-CONT");
    }

    /// A connection that stays open, as an application's.
    pub fn connect(&self) -> Connection {
        let mut psql = psql(&self.programs, self.port);
        psql.args(["-XtAq", "-F", "\t"]);
        Connection::over(psql)
    }

    /// What `psql` prints for a statement.
    pub fn sql(&self, statement: &str) -> String {
        try_sql(&self.programs, self.port, statement).unwrap()
    }
}

pub(super) fn settings(data: &Path, port: u16) -> Vec<String> {
    let mut arguments = vec!["-D".to_owned(), data.display().to_string(), "-p".to_owned(), port.to_string()];
    for setting in [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=off",
        "dynamic_shared_memory_type=mmap",
        "shared_buffers=16MB",
        "max_connections=60",
        "log_statement=none",
    ] {
        arguments.extend(["-c".to_owned(), setting.to_owned()]);
    }
    arguments
}

/// Puts a certificate and its key where only the server's user reads them.
fn tls_files(
    directory: &Path,
    user: Option<(u32, u32)>,
    tls: Option<(&str, &str)>,
) -> Vec<(&'static str, String)> {
    let Some((cert, key)) = tls else { return vec![] };
    let put = |(name, text): (&'static str, &str)| {
        let file = directory.join(format!("{name}.pem"));
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        belongs_to(&file, user);
        (name, file.display().to_string())
    };
    [("cert", cert), ("key", key)].map(put).into()
}

/// Ended by a signal that it minds, it leaves no shared memory behind.
impl Drop for Postgres {
    fn drop(&mut self) {
        let Some(child) = &mut self.server.child else { return };
        let pid = child.id();
        signal("-CONT", &family(pid));
        signal("-QUIT", &[pid]);
        let end = Instant::now() + Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn try_sql(programs: &Path, port: u16, statement: &str) -> Option<String> {
    let output = psql(programs, port).args(["-XtAq", "-v", "ON_ERROR_STOP=1", "-c", statement]).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

fn psql(programs: &Path, port: u16) -> Command {
    let mut command = command(&programs.join("psql"), None);
    command.env("PGPASSWORD", PASSWORD).args(["-h", "127.0.0.1", "-U", "keymoot", "-d", "postgres"]);
    command.args(["-p", &port.to_string()]);
    command
}

fn newest_postgres() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("Debian's postgresql; tests/run installs it");
    let numbers = versions.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    format!("/usr/lib/postgresql/{}/bin", numbers.max().unwrap()).into()
}

/// An etcd cluster.
pub struct Etcd {
    members: Vec<Server>,
    ports: Vec<u16>,
    tls: bool,
    _directory: TempDir,
}

impl Etcd {
    /// Three members.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same, with TLS for clients where there is a certificate and its key, in PEM.
    pub fn start_with(tls: Option<(&str, &str)>) -> Self {
        let user = other_user();
        let directory = directory(user);
        let [c0, c1, c2, p0, p1, p2]: [u16; 6] = quiet_ports();
        let (ports, peers) = (vec![c0, c1, c2], [p0, p1, p2]);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let client_url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
        let files = tls_files(directory.path(), user, tls);
        let cluster: Vec<_> = (0..3).map(|n| format!("m{n}={}", url(peers[n]))).collect();
        let mut members = Vec::new();
        for n in 0..3 {
            let arguments = [
                ("--name", format!("m{n}")),
                ("--data-dir", directory.path().join(format!("m{n}")).display().to_string()),
                ("--listen-client-urls", client_url(ports[n])),
                ("--advertise-client-urls", client_url(ports[n])),
                ("--listen-peer-urls", url(peers[n])),
                ("--initial-advertise-peer-urls", url(peers[n])),
                ("--initial-cluster", cluster.join(",")),
                ("--log-level", "error".into()),
            ];
            let tls = files.iter().map(|(name, file)| (format!("--{name}-file"), file.clone()));
            let arguments = arguments.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(tls);
            let arguments = arguments.flat_map(|(name, value)| [name, value]).collect();
            let log = directory.path().join(format!("log{n}"));
            let mut member = Server { program: "/usr/bin/etcd".into(), arguments, log, user, child: None };
            member.start();
            members.push(member);
        }
        let etcd = Self { members, ports, tls: tls.is_some(), _directory: directory };
        (0..3).for_each(|n| etcd.until_healthy(n));
        etcd
    }

    pub fn url(&self) -> String {
        let all: Vec<_> = (0..3).map(|n| self.address(n)).collect();
        Self::url_at(&all)
    }

    /// The same cluster, its members at these addresses.
    pub fn url_at(addresses: &[SocketAddr]) -> String {
        let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        format!("etcd://{}", addresses.join(","))
    }

    pub fn address(&self, member: usize) -> SocketAddr {
        loopback(self.ports[member])
    }

    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    pub fn pause(&self, member: usize) {
        self.members[member].signal("-STOP");
    }

    pub fn go_on(&self, member: usize) {
        self.members[member].signal("-CONT");
    }

    /// Starts members that were killed, and waits until they are part of the cluster again.
    pub fn restart(&mut self, members: &[usize]) {
        for member in members {
            self.members[*member].kill();
            self.members[*member].start();
        }
        members.iter().for_each(|member| self.until_healthy(*member));
    }

    fn until_healthy(&self, member: usize) {
        let end = Instant::now() + PATIENCE;
        while !self.healthy(member).unwrap_or(false) {
            let log = &self.members[member].log;
            assert!(Instant::now() < end, "no start: {}", fs::read_to_string(log).unwrap_or_default());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn healthy(&self, member: usize) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(self.address(member))?;
        if self.tls {
            // Whoever asks next has to wait.
            return Ok(true);
        }
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.contains("\"true\""))
    }
}
