//! A network of its own for each node of a cluster: what the nodes say to each other can be cut off like a cable, while
//! their clients still reach them.

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use super::servers::Server;

/// Linux's network namespaces, and two links for each: to this one, for clients, and to the bridge that joins all nodes.
pub(super) struct Network {
    name: String,
    nodes: u8,
    subnet: [u8; 3],
}

impl Network {
    /// Only root may; else why there is none.
    pub(super) fn new(nodes: u8) -> Result<Self, String> {
        let pid = std::process::id();
        // A range that is kept for tests of networks.
        let [.., high, low] = pid.to_be_bytes();
        let network = Self { name: format!("km{pid:x}"), nodes, subnet: [198, 18 + high % 2, low] };
        network.make().inspect_err(|_| {
            let _nothing_left = Command::new("sh").args(["-c", &network.clean()]).output();
        })?;
        Ok(network)
    }

    fn make(&self) -> Result<(), String> {
        let name = &self.name;
        ip(&format!("link add {name}b type bridge"))?;
        ip(&format!("link set dev {name}b up"))?;
        for node in 0..self.nodes {
            let (space, clients, group) = (self.space(node), format!("{name}c{node}"), self.cable(node));
            let near = Ipv4Addr::from(self.client(node).to_bits() - 1);
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {clients} type veth peer name clients netns {space}"))?;
            ip(&format!("link add {group} type veth peer name others netns {space}"))?;
            ip(&format!("addr add {near}/30 dev {clients}"))?;
            ip(&format!("link set dev {clients} up"))?;
            ip(&format!("link set dev {group} master {name}b up"))?;
            ip(&format!("-n {space} addr add {}/30 dev clients", self.client(node)))?;
            ip(&format!("-n {space} addr add {}/28 dev others", self.group(node)))?;
            for link in ["lo", "clients", "others"] {
                ip(&format!("-n {space} link set dev {link} up"))?;
            }
        }
        Ok(())
    }

    fn space(&self, node: u8) -> String {
        format!("{}n{node}", self.name)
    }

    fn cable(&self, node: u8) -> String {
        format!("{}g{node}", self.name)
    }

    /// Where clients reach a node.
    pub(super) fn client(&self, node: u8) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 4 * node + 2)
    }

    /// Where the other nodes do.
    pub(super) fn group(&self, node: u8) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 129 + node)
    }

    /// Makes a server one in a node's network, which is entered as root and before it becomes its own user.
    pub(super) fn enclose(&self, node: u8, server: &mut Server) {
        let mut arguments = vec![format!("--net=/run/netns/{}", self.space(node))];
        if let Some((uid, gid)) = server.user.take() {
            arguments.push("setpriv".into());
            arguments.extend([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
        }
        arguments.push(std::mem::replace(&mut server.program, "/usr/bin/nsenter".into()).display().to_string());
        arguments.append(&mut server.arguments);
        server.arguments = arguments;
    }

    /// Pulls a node's cable to the others, or puts it back.
    pub(super) fn link(&self, node: u8, state: &str) {
        ip(&format!("link set dev {} {state}", self.cable(node))).unwrap();
    }

    /// The commands that remove it.
    fn clean(&self) -> String {
        let spaces = (0..self.nodes).map(|node| format!("ip netns del {}", self.space(node)));
        spaces.chain([format!("ip link del {}b", self.name)]).collect::<Vec<_>>().join("\n")
    }

    /// Leaves them in a file, for whoever is there at the end.
    pub(super) fn leave(&self, file: &Path) {
        fs::write(file, self.clean()).unwrap();
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let done = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", said.trim())) }
}
