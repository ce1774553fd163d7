//! MariaDB on free loopback ports, with its files in temporary directories: started, stopped, killed and started
//! again on the same port.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Mutex,
};

use tempfile::TempDir;

use super::servers::{PASSWORD, Server, belongs_to, command, directory, loopback, other_user};

/// A MariaDB server with one almighty user, `keymoot`, and one empty database, `app`.
pub struct MariaDb {
    server: Server,
    address: SocketAddr,
    _directory: TempDir,
}

impl MariaDb {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more of the server's options, such as `--sql-mode=`.
    pub fn start_with(options: &[&str]) -> Self {
        let user = other_user();
        let directory = directory(user);
        let data = directory.path().join("data");
        install(directory.path(), &data, user);
        let [port] = quiet_ports();
        let address = loopback(port);
        let mut arguments = arguments(&data, address);
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let log = directory.path().join("log");
        let server = Server { program: "/usr/sbin/mariadbd".into(), arguments, log, user, child: None };
        let mut maria = Self { server, address, _directory: directory };
        maria.restart();
        maria
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        url(self.address)
    }

    pub fn pid(&self) -> u32 {
        self.server.child.as_ref().unwrap().id()
    }

    /// The same server at another address, such as a proxy's.
    pub fn url_at(&self, address: SocketAddr) -> String {
        url(address)
    }

    /// Kills it, if it runs, and waits until it answers again.
    pub fn restart(&mut self) {
        self.server.kill();
        let address = self.address;
        self.server.start_until(|| try_sql(address, "SELECT 1").is_some());
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

    /// What the client prints for statements: a line a row, a tab between columns.
    pub fn sql(&self, statements: &str) -> String {
        sql(self.address, statements)
    }

    /// A connection that stays open, as an application's.
    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }
}

/// One open connection, so that transactions and locks outlast a statement.
pub struct Connection {
    client: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Self {
        let mut command = client(address);
        command.args(["--unbuffered", "--force"]);
        Self::over(command)
    }

    /// A client that takes statements on its standard input and goes on behind one that failed.
    pub(super) fn over(mut client: Command) -> Self {
        let mut client =
            client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
        let mut connection = Self { client, input, output: BufReader::new(output) };
        connection.run("SELECT 1");
        connection
    }

    /// Sends statements and does not wait for their end.
    pub fn send(&mut self, statements: &str) {
        writeln!(self.input, "{statements};").unwrap();
    }

    /// What the client prints for statements; a statement that fails prints nothing.
    pub fn run(&mut self, statements: &str) -> String {
        const END: &str = "-- end --";
        self.send(&format!("{statements}; SELECT '{END}'"));
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the connection broke: {statements}");
            if line.trim() == END {
                return printed.trim().to_owned();
            }
            printed.push_str(&line);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _gone = self.client.kill();
        let _reaped = self.client.wait();
    }
}

/// Makes an empty data directory with the user and the database.
pub(super) fn install(directory: &Path, data: &Path, user: Option<(u32, u32)>) {
    let file = directory.join("first.sql");
    // The bootstrap takes one statement a line.
    let sql = [
        "FLUSH PRIVILEGES;",
        "CREATE DATABASE app;",
        &format!("CREATE USER keymoot@'%' IDENTIFIED BY '{PASSWORD}';"),
        "GRANT ALL ON *.* TO keymoot@'%' WITH GRANT OPTION;\n",
    ]
    .join("\n");
    fs::write(&file, sql).unwrap();
    belongs_to(&file, user);
    let made = command(Path::new("/usr/bin/mariadb-install-db"), user)
        .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"])
        .arg(format!("--extra-file={}", file.display()))
        .arg(format!("--datadir={}", data.display()))
        // A server that starts removes all temporary tables of its directory, others' too.
        .arg(format!("--tmpdir={}", directory.display()))
        .args(SMALL)
        .output()
        .expect("Debian's mariadb-server; tests/run installs it");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A server that many tests run beside each other.
const SMALL: [&str; 3] =
    ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=2"];

pub(super) fn arguments(data: &Path, address: SocketAddr) -> Vec<String> {
    let fixed = [
        "--no-defaults",
        "--skip-name-resolve",
        "--character-set-server=utf8mb4",
        "--max-connections=100",
        "--performance-schema=off",
    ];
    let data = data.display();
    let own = [
        format!("--datadir={data}"),
        format!("--tmpdir={data}"),
        format!("--socket={data}/socket"),
        format!("--bind-address={}", address.ip()),
        format!("--port={}", address.port()),
    ];
    fixed.into_iter().chain(SMALL).map(str::to_owned).chain(own).collect()
}

/// Free ports outside of the range that outgoing connections take theirs from, so that a server that was killed
/// gets its own again.
pub(super) fn quiet_ports<const N: usize>() -> [u16; N] {
    // Two tests of one process look at once.
    static TAKEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().unwrap();
    let first = 10_000 + u16::try_from(std::process::id() % 500 * 40).unwrap();
    let free = |port: &u16| !taken.contains(port) && TcpListener::bind(loopback(*port)).is_ok();
    let found: Vec<u16> = (first..32_000).chain(10_000..first).filter(free).take(N).collect();
    taken.extend(&found);
    found.try_into().unwrap()
}

pub(super) fn url(address: SocketAddr) -> String {
    format!("mysql://keymoot:{PASSWORD}@{address}/app")
}

fn client(address: SocketAddr) -> Command {
    let mut command = command(Path::new("/usr/bin/mariadb"), None);
    command.env("MYSQL_PWD", PASSWORD).args(["--no-defaults", "--batch", "--skip-column-names"]).args([
        "--user=keymoot",
        "--database=app",
        "--connect-timeout=10",
        &format!("--host={}", address.ip()),
        &format!("--port={}", address.port()),
    ]);
    command
}

pub(super) fn sql(address: SocketAddr, statements: &str) -> String {
    let output = client(address).args(["-e", statements]).output().unwrap();
    assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(super) fn try_sql(address: SocketAddr, statements: &str) -> Option<String> {
    let output = client(address).args(["-e", statements]).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}
