//! Ceremonies over several nodes with the real command line: two real daemons, and nodes that are dead, slow, lying,
//! redirecting, or not who they should be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails loudly"
)]

#[path = "../harness/mod.rs"]
mod harness;
mod impostor;
mod program;

use std::{fs, sync::Arc};

use serde_json::{Value as Json, json};

use harness::{OPERATOR, World};
use impostor::{Authority, Certificate, Impostor, Manner, http};
use program::Program;

/// Two daemons on one metadata store, and what the command line needs to reach them.
struct Cluster {
    db1: World,
    db2: World,
    program: Program,
    authority: Authority,
}

impl Cluster {
    /// v9 is made, with holders h1, h2 and h3, two of them needed. Both nodes are sealed, and db2 has no manifest of
    /// its own yet.
    fn new() -> Self {
        let mut db1 = World::new("");
        let mut db2 = World::new("");
        let store = db1.path("meta.db");
        for (world, name) in [(&db1, "db1"), (&db2, "db2")] {
            let more = format!(
                "[metadata]\nurl = \"sqlite://{}\"\n[cluster]\nnode = \"{name}\"\nmembers = [\"db1\", \"db2\"]\n",
                store.display()
            );
            world.write_config(&more);
        }
        db1.start();
        db1.init(3, 9);
        db2.start();
        db2.shares = db1.shares.clone();
        let authority = Authority::new();
        let ca = db1.path("ca.pem");
        let own = |world: &World| fs::read_to_string(world.data_dir().join("tls-cert.pem")).unwrap();
        fs::write(&ca, [own(&db1), own(&db2), authority.pem.clone()].concat()).unwrap();
        let program = Program { home: db1.dir.path().into(), ca };
        let cluster = Self { db1, db2, program, authority };
        for holder in 1..=3 {
            let line = format!("prod-keyPart-v9: {}\n", cluster.db1.share(9, holder));
            fs::write(cluster.file(holder), line).unwrap();
        }
        cluster
    }

    fn file(&self, holder: usize) -> String {
        self.db1.path(&format!("h{holder}.parts")).to_str().unwrap().into()
    }

    fn nodes(&self) -> Vec<String> {
        vec![self.db1.control_url().into(), self.db2.control_url().into()]
    }

    fn run(&self, arguments: &[&str], nodes: &[String], token: Option<&str>) -> (i32, String) {
        let nodes = nodes.iter().flat_map(|node| ["--node", node]);
        self.program.run(&arguments.iter().copied().chain(nodes).collect::<Vec<_>>(), token)
    }

    fn json(&self, arguments: &[&str], nodes: &[String]) -> (i32, Json) {
        let nodes = nodes.iter().flat_map(|node| ["--node", node]);
        let json = ["--output", "json"];
        let arguments: Vec<_> = arguments.iter().copied().chain(nodes).chain(json).collect();
        let output = self.program.output(&arguments, None);
        let document = serde_json::from_slice(&output.stdout);
        (output.status.code().unwrap(), document.unwrap_or_else(|_| panic!("{output:?}")))
    }

    /// db2 has no manifest of its own: an operator names the stored one.
    fn confirm(&self) {
        let manifest = self.db1.path("stored.json");
        fs::copy(self.db1.data_dir().join("manifest.json"), &manifest).unwrap();
        let seen = self.db1.get("/v1/status")["revision"].to_string();
        let (_, inspected) = self.json(&["inspect", manifest.to_str().unwrap()], &[]);
        let digest = inspected["digest"].as_str().unwrap();
        let to_db2 = ["manifest", "confirm", &seen, digest, "--control-addr", self.db2.control_url()];
        let (code, said) = self.run(&to_db2, &[], Some(OPERATOR));
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("is confirmed"), "{said}");
    }
}

#[test]
fn every_node_is_unlocked_by_one_command_each_and_the_next_holders_are_named() {
    let cluster = Cluster::new();
    let nodes = cluster.nodes();

    let (code, said) = cluster.run(&["unlock", &cluster.file(1)], &nodes, None);
    assert_eq!(code, 3, "{said}");
    for row in ["db1\tv9\t1 of 2: 1 more\t\n", "db2\tv9\t1 of 2: 1 more\t\n", "v9 needs 1 more\n"] {
        assert!(said.contains(row), "{row}: {said}");
    }
    // Again, by somebody who may know the names: no failure, and it says whom to call.
    let (code, said) = cluster.run(&["unlock", &cluster.file(1)], &nodes, Some(OPERATOR));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("db1\tv9\t1 of 2: 1 more\th1\n"), "{said}");
    assert!(said.contains("v9 needs 1 more of h2, h3\n"), "{said}");
    assert!(said.contains("(duplicate_share). Nothing is to be done"), "{said}");

    let (code, said) = cluster.run(&["unlock", &cluster.file(2)], &nodes, Some(OPERATOR));
    assert_eq!((code, cluster.db1.state().as_str()), (3, "unlocked"), "{said}");
    assert!(said.contains("db2\tv9\tvalidated"), "{said}");
    assert!(said.contains("needs a person: this node has no manifest of its own"), "{said}");
    cluster.confirm();
    assert_eq!(cluster.db2.state(), "unlocked");

    let (code, said) = cluster.run(&["unlock", &cluster.file(3)], &nodes, None);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.matches("is unlocked\n").count(), 2, "{said}");
    assert!(said.contains("already_loaded"), "{said}");
    let (code, said) =
        cluster.run(&["manifest", "republish", "--control-addr", cluster.db1.control_url()], &[], Some(OPERATOR));
    assert!(code == 0 && said.contains("is in force"), "{said}");
}

#[test]
fn a_refused_part_is_named_with_what_to_do_and_spoils_no_other() {
    let cluster = Cluster::new();
    let nodes = [cluster.db1.control_url().to_owned()];
    let right = cluster.db1.share(9, 1);
    let typo = if right.ends_with('q') { 'p' } else { 'q' };
    fs::write(cluster.file(3), format!("prod-keyPart-v9: {}{typo}\n", &right[..right.len() - 1])).unwrap();
    let (code, said) = cluster.run(&["unlock", &cluster.file(3), &cluster.file(1)], &nodes, None);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("h3.parts: refused: prod-keyPart-v9"), "{said}");
    assert!(said.contains("checksum_failed). A typing error"), "{said}");
    assert!(said.contains("db1\tv9\t1 of 2: 1 more"), "{said}");
    let (code, said) = cluster.run(&["unlock", &cluster.file(2)], &nodes, None);
    assert_eq!(code, 0, "{said}");

    // Of another keyring: it doesn't even go out.
    let mut other = World::new("");
    other.start();
    other.init(3, 9);
    fs::write(cluster.file(3), format!("prod-keyPart-v9: {}\n", other.share(9, 1))).unwrap();
    let (code, said) = cluster.run(&["unlock", &cluster.file(3)], &nodes, None);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("it was not sent (wrong_keyring)"), "{said}");
}

#[test]
fn seal_and_status_reach_every_node_and_name_the_one_that_is_away() {
    let mut cluster = Cluster::new();
    let nodes = cluster.nodes();
    cluster.confirm();
    let (code, said) = cluster.run(&["unlock", &cluster.file(1), &cluster.file(2)], &nodes, None);
    assert_eq!(code, 0, "{said}");
    let (code, all) = cluster.json(&["status"], &nodes);
    assert_eq!(code, 0, "{all}");
    for node in all["nodes"].as_array().unwrap() {
        assert_eq!(node["status"]["state"], "unlocked", "{all}");
    }

    cluster.db1.kill();
    let (code, said) = cluster.run(&["status"], &nodes, None);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains(&format!("{}: NOT reached", nodes[0])), "{said}");
    assert!(said.contains("db2\tunlocked\t"), "{said}");

    // One node is enough to prove; which one took it is said, and which one was away.
    let (code, said) = cluster.run(&["holder", "prove", &cluster.file(3)], &nodes, None);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("v9: h3 has proved possession; db2 recorded it"), "{said}");
    assert!(said.contains(&format!("{} can't take it now", nodes[0])), "{said}");

    let (code, said) = cluster.run(&["seal"], &nodes, Some(OPERATOR));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains(&format!("{} is NOT known to be sealed", nodes[0])), "{said}");
    assert!(said.contains(&format!("{} is sealed", nodes[1])), "{said}");
    assert_eq!(cluster.db2.state(), "sealed");
}

/// A node that is none: how it looks from outside, what the command line has to say, and how it ends.
struct Case {
    what: &'static str,
    url: String,
    says: &'static str,
    code: i32,
    impostor: Option<Impostor>,
}

fn status_of(keyring_id: &str) -> String {
    json!({"node": "liar", "state": "sealed", "keyring": "prod", "keyring_id": keyring_id, "revision": 1,
           "manifest": "store", "versions": [], "needs": [], "way_back": ""})
    .to_string()
}

fn redirect(status: u16, target: &Impostor) -> Vec<u8> {
    http(status, &format!("location: http://{}/v1/unlock/parts\r\n", target.address), "")
}

fn cases(authority: &Authority, target: &Arc<Impostor>) -> Vec<Case> {
    let mut cases = vec![Case {
        what: "dead",
        // Nobody is given this port in the course of the test.
        url: "https://127.0.0.1:9".into(),
        says: "can't be reached",
        code: 3,
        impostor: None,
    }];
    let mut add = |what, manner, says, code| {
        let impostor = Impostor::new(manner);
        cases.push(Case { what, url: impostor.url(), says, code, impostor: Some(impostor) });
    };
    let good = authority.tls(Certificate::Good);
    // What it would answer, if anybody listened to it.
    let truth = || -> impostor::Answer { Box::new(|_| http(200, "", &status_of("0101010101010101"))) };
    add("slow", Manner::Silent, "did not answer in time", 3);
    add("without TLS", Manner::Plain(truth()), "does not speak TLS", 3);
    add("of TLS 1.1", Manner::Plain(Box::new(|_| impostor::hello_of_tls_1_1())), "TLS 1.2 or 1.3 is needed", 3);
    add(
        "of another CA",
        Manner::Tls(Authority::new().tls(Certificate::Good), truth()),
        "invalid peer certificate",
        3,
    );
    add("expired", Manner::Tls(authority.tls(Certificate::Expired), truth()), "renew its certificate", 3);
    add("not yet valid", Manner::Tls(authority.tls(Certificate::NotYetValid), truth()), "this machine's clock", 3);
    add("of another name", Manner::Tls(authority.tls(Certificate::WrongName), truth()), "db9.example", 3);
    let nonsense: impostor::Answer = Box::new(|_| http(200, "", "{\"state\": \"unlocked\"}"));
    add("nonsense", Manner::Tls(good.clone(), nonsense), "not Keymoot's", 3);
    let huge: impostor::Answer = Box::new(|_| http(200, "", &"x".repeat(64 * 1024 * 1024)));
    add("huge", Manner::Tls(good.clone(), huge), "longer than", 3);
    add("of another keyring", Manner::Tls(good.clone(), truth()), "wrong_keyring", 1);
    for status in [301, 302, 307, 308] {
        let target = target.clone();
        let answer: impostor::Answer = Box::new(move |_| redirect(status, &target));
        add("redirecting", Manner::Tls(good.clone(), answer), "status 30", 3);
    }
    cases
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()))
}

#[test]
fn fault_13_no_byte_of_a_share_reaches_a_node_that_is_not_proved() {
    let cluster = Cluster::new();
    cluster.confirm();
    let target = Arc::new(Impostor::new(Manner::Silent));
    let cases = cases(&cluster.authority, &target);
    let real = cluster.nodes();

    // All at once, with both real nodes among them: those are served, whatever the others do.
    let mut all: Vec<String> = cases.iter().map(|case| case.url.clone()).collect();
    all.splice(3..3, real.clone());
    let (code, document) = cluster.json(&["unlock", &cluster.file(1), &cluster.file(2)], &all);
    assert_eq!(code, 1, "{document}");
    let of = |url: &str| document["nodes"].as_array().unwrap().iter().find(|node| node["addr"] == url).unwrap();
    for url in &real {
        assert_eq!(of(url)["answer"]["state"], "unlocked", "{document}");
    }
    for case in &cases {
        let node = of(&case.url);
        assert!(node["answer"]["accepted"].as_array().is_none_or(Vec::is_empty), "{}: {node}", case.what);
        assert!(node["error"].is_string() || case.code == 1, "{}: {node}", case.what);
    }

    // Each alone is named, with what is wrong, and is no success.
    for case in &cases {
        let (code, said) = cluster.run(&["unlock", &cluster.file(1)], std::slice::from_ref(&case.url), None);
        assert_eq!(code, case.code, "{}: {said}", case.what);
        assert!(said.contains(&case.url) && said.contains(case.says), "{}: {said}", case.what);
    }
    for (case, impostor) in cases.iter().filter_map(|case| Some((case, case.impostor.as_ref()?))) {
        assert!(impostor.connections() >= 2, "{} was not asked", case.what);
        assert!(!impostor.raw().is_empty(), "{} recorded nothing", case.what);
        let requests = impostor.requests();
        for holder in [1, 2] {
            let share = cluster.db1.share(9, holder);
            // Pieces of it, so that a share cut in two would be found as well.
            for piece in ["kmshare1", "keyPart", &share[8..30], &share[40..62]] {
                assert!(!contains(&impostor.raw(), piece), "{} got {piece} over the wire", case.what);
                assert!(!contains(requests.as_bytes(), piece), "{} got {piece}", case.what);
            }
        }
        // The one thing that was ever asked.
        let asked = requests.lines().filter(|line| line.contains("HTTP/1.1"));
        assert!(asked.clone().all(|line| line == "GET /v1/status HTTP/1.1"), "{}: {requests}", case.what);
    }
    assert_eq!(target.connections(), 0, "a redirect was followed");

    // The same again for the real ones is safe, and now all is well.
    let (code, said) = cluster.run(&["unlock", &cluster.file(1), &cluster.file(2)], &real, None);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn fault_13_a_proved_node_that_redirects_a_share_leads_it_nowhere() {
    let cluster = Cluster::new();
    let target = Arc::new(Impostor::new(Manner::Silent));
    let keyring_id = cluster.db1.get("/v1/status")["keyring_id"].as_str().unwrap().to_owned();
    for status in [301, 302, 303, 307, 308] {
        let (to, keyring_id) = (target.clone(), keyring_id.clone());
        let answer: impostor::Answer = Box::new(move |request| {
            if request.starts_with("GET") { http(200, "", &status_of(&keyring_id)) } else { redirect(status, &to) }
        });
        let node = Impostor::new(Manner::Tls(cluster.authority.tls(Certificate::Good), answer));
        for command in [["unlock"].as_slice(), &["holder", "prove"]] {
            let file = cluster.file(1);
            let arguments = [command, &[&file]].concat();
            let (code, said) = cluster.run(&arguments, &[node.url()], None);
            assert_eq!(code, 3, "{status}: {said}");
            assert!(said.contains(&node.url()) && said.contains(&format!("status {status}")), "{said}");
        }
        // The proof that the recorder looks in the right place: behind TLS the share stands, on the wire it does not.
        assert!(contains(node.requests().as_bytes(), &cluster.db1.share(9, 1)));
        assert!(!contains(&node.raw(), "kmshare1"));
    }
    assert_eq!(target.connections(), 0, "a redirect was followed");
}

#[test]
fn an_address_without_tls_is_refused_before_any_node_is_asked() {
    let cluster = Cluster::new();
    let node = Impostor::new(Manner::Silent);
    let nodes = [node.url(), format!("http://{}", node.address)];
    for command in [["unlock"].as_slice(), &["holder", "prove"]] {
        let (code, said) = cluster.run(&[command, &[&cluster.file(1)]].concat(), &nodes, None);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("does not begin with https://"), "{said}");
    }
    assert_eq!(node.connections(), 0);
}
