//! Machines of their own: each daemon in a network namespace, with one cable to the machine that its store runs on.
//!
//! Its clients are not on that cable: they come in through the namespace's own loopback, so that what a node answers can
//! be heard while it is cut off from everybody else.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::World;

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "`ip {arguments}`: {said} (network namespaces need root and Debian's iproute2)"
    );
}

/// One machine.
pub struct Machine {
    name: String,
    /// This side of the cable; the other one is in the namespace.
    cable: String,
    /// Where the store's machine is, as this one sees it.
    here: IpAddr,
    doors: Vec<Door>,
}

impl Machine {
    /// One more; a process has at most 60.
    pub fn new() -> Self {
        static MADE: AtomicU8 = AtomicU8::new(0);
        let n = MADE.fetch_add(1, Ordering::SeqCst);
        assert!(n < 60, "too many machines");
        let process = std::process::id();
        let name = format!("km{process}n{n}");
        let cable = format!("km{process}c{n}");
        let net = format!("10.{}.{}", 60 + process % 190, process / 190 % 4 * 60 + u32::from(n));
        ip(&format!("netns add {name}"));
        let machine = Self { here: format!("{net}.1").parse().unwrap(), doors: vec![], name, cable };
        let Self { name, cable, .. } = &machine;
        ip(&format!("link add {cable} type veth peer name store netns {name}"));
        ip(&format!("addr add {net}.1/30 dev {cable}"));
        ip(&format!("link set {cable} up"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} addr add {net}.2/30 dev store"));
        ip(&format!("-n {name} link set store up"));
        // A daemon's ports must be free out here too, where the doors to them are: nobody else is given these.
        let first = 61_000 + u16::from(n % 15) * 300;
        let range = format!("echo {first} {} > /proc/sys/net/ipv4/ip_local_port_range", first + 299);
        let set = Command::new("ip").args(["netns", "exec", name, "sh", "-c", &range]).status().unwrap();
        assert!(set.success(), "the range of ports was not set: {set}");
        machine
    }

    /// Pulls the cable out, or puts it in again.
    pub fn plug(&self, plugged: bool) {
        ip(&format!("link set {} {}", self.cable, if plugged { "up" } else { "down" }));
    }

    /// An address on the cable that leads to this one, which is on loopback.
    pub fn leads_to(&mut self, target: SocketAddr) -> SocketAddr {
        let door = Door::new(SocketAddr::new(self.here, 0), target, None);
        let address = door.address;
        self.doors.push(door);
        address
    }

    /// Starts a daemon there; it is reached at the addresses that it says.
    pub fn start(&mut self, world: &mut World) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, env!("CARGO_BIN_EXE_keymoot"), "server", "--config"]);
        world.start_as({
            command.arg(world.config_file());
            command
        });
        for url in [world.data_url(), world.control_url()] {
            let address: SocketAddr = url.strip_prefix("https://").unwrap().parse().unwrap();
            self.doors.push(Door::new(address, address, Some(format!("/run/netns/{}", self.name).into())));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.doors.clear();
        // The cable goes with it.
        let _gone = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Carries every connection from one address to another, which may be in a namespace.
struct Door {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
}

impl Door {
    fn new(listen: SocketAddr, target: SocketAddr, within: Option<PathBuf>) -> Self {
        let listener = TcpListener::bind(listen).unwrap();
        let address = listener.local_addr().unwrap();
        let closed = Arc::new(AtomicBool::new(false));
        let over = closed.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let within = within.clone();
                thread::spawn(move || {
                    // A thread's sockets are of its namespace.
                    if let Some(path) = within {
                        let namespace = fs::File::open(path).unwrap();
                        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                    }
                    if let Ok(server) = TcpStream::connect(target) {
                        carry(&client, &server);
                    }
                });
            }
        });
        Self { address, closed }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        let ip = if self.address.ip().is_loopback() { Ipv4Addr::LOCALHOST.into() } else { self.address.ip() };
        let _woken = TcpStream::connect(SocketAddr::new(ip, self.address.port()));
    }
}

fn carry(client: &TcpStream, server: &TcpStream) {
    for stream in [client, server] {
        stream.set_nodelay(true).unwrap();
    }
    thread::scope(|scope| {
        scope.spawn(|| pump(client, server));
        pump(server, client);
    });
}

fn pump(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _gone = from.shutdown(Shutdown::Both);
    let _gone = to.shutdown(Shutdown::Both);
}
