//! A keyholder's own side of the ceremonies, and the operator's requests, with the real command line.

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
#[allow(dead_code, reason = "each test binary uses its own part of it")]
mod impostor;
mod program;

use std::fs;

use serde_json::{Value as Json, json};

use harness::{OPERATOR, World};
use impostor::{Authority, Certificate, Impostor, Manner, http};
use program::Program;

const HOLDERS: [&str; 3] = ["ann", "bob", "eve"];

/// A daemon, and holders who have made their identities.
struct Team {
    world: World,
    program: Program,
}

impl Team {
    /// v9 is made, with a package for each holder in `packages`; nobody has opened theirs.
    fn new() -> Self {
        let mut world = World::new("");
        world.start();
        let program = Program { home: world.dir.path().into(), ca: world.data_dir().join("tls-cert.pem") };
        let team = Self { world, program };
        team.init("packages");
        team
    }

    fn init(&self, out: &str) {
        let holders: Vec<_> = HOLDERS.iter().map(|name| format!("{name}={}", self.recipient(name))).collect();
        let named: Vec<&str> = holders.iter().flat_map(|holder| ["--holder", holder]).collect();
        let arguments = ["init", "--threshold", "2", "--first-version", "9", "--out", out];
        self.done(&[arguments.as_slice(), &named].concat());
    }

    /// The recipient of somebody's identity, which is made if it isn't there.
    fn recipient(&self, name: &str) -> String {
        let file = format!("{name}.identity");
        if !self.program.home.join(&file).exists() {
            self.done(&["holder", "keygen", "--no-passphrase", "--out", &file]);
        }
        let text = fs::read_to_string(self.program.home.join(&file)).unwrap();
        text.lines().next().unwrap().strip_prefix("# public key: ").unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str], token: Option<&str>) -> (i32, String) {
        self.program.run(&[&["--control-addr", self.world.control_url()], arguments].concat(), token)
    }

    /// As an operator, and that it goes well.
    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let (code, said) = self.run(arguments, Some(OPERATOR));
        assert_eq!(code, 0, "{arguments:?}: {said}");
        said
    }

    /// What a request was given as its id.
    #[track_caller]
    fn asked(&self, arguments: &[&str]) -> String {
        let said = self.done(arguments);
        said.lines().find_map(|line| line.strip_prefix("request ")).unwrap().to_owned()
    }

    /// As a holder opens their package.
    fn open(&self, package: &str, name: &str, out: &str) -> (i32, String) {
        let identity = format!("{name}.identity");
        self.run(&["holder", "open", package, "--identity", &identity, "--out", out], None)
    }

    /// Every package is opened while the node is sealed, and two holders unlock it.
    fn unlocked() -> Self {
        let team = Self::new();
        for name in HOLDERS {
            let (code, said) = team.open(&format!("packages/{name}.age"), name, &format!("{name}.parts"));
            assert_eq!(code, 0, "{said}");
        }
        team.done(&["unlock", "ann.parts", "bob.parts"]);
        team
    }

    fn consent(&self, request: &str, file: &str) -> (i32, String) {
        self.run(&["holder", "consent", request, file, "--yes"], None)
    }
}

#[test]
fn an_opened_package_is_called_well_only_after_a_node_has_compared_it() {
    let team = Team::new();
    let (code, said) = team.open("packages/ann.age", "ann", "ann.parts");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("NOT checked") && said.contains("sealed") && !said.contains("all is well"), "{said}");
    let (code, said) = team.open("packages/bob.age", "ann", "other.parts");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("made for another recipient"), "{said}");

    // Before the first unlock the keyring may be made again, and a package of the first one is then of another keyring.
    team.init("second");
    let (code, said) = team.open("packages/bob.age", "bob", "old.parts");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("wrong_keyring") && said.contains("NOT all is well"), "{said}");
    for name in ["bob", "eve"] {
        team.open(&format!("second/{name}.age"), name, &format!("{name}.parts"));
    }
    team.done(&["unlock", "bob.parts", "eve.parts"]);
    let (code, said) = team.open("second/ann.age", "ann", "new.parts");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("v9: ann has proved possession") && said.contains("all is well"), "{said}");
}

#[test]
fn a_holder_sees_all_that_is_asked_for_and_consents_to_exactly_that() {
    let team = Team::unlocked();
    let joe = team.recipient("joe");
    let id =
        team.asked(&["rotate", "stage", "--holder", &format!("ann={joe}"), "--holder", "bob", "--holder", "joe"]);
    // Nobody to ask: the request is shown, and nothing is sent.
    let (code, said) = team.run(&["holder", "consent", &id, "ann.parts"], Some(OPERATOR));
    assert_eq!(code, 2, "{said}");
    for shown in [
        "operation: stage\n".to_owned(),
        "threshold: 2\n".into(),
        format!("id: {id}\n"),
        "asked by: ops\n".into(),
        "consents: 0 of 2\n".into(),
        format!("ann\tOTHER RECIPIENT\t{joe}\n"),
        "bob\tOTHER RECIPIENT\tNONE".into(),
        "joe\tcomes\tNONE".into(),
        "eve\tgoes\t\n".into(),
    ] {
        assert!(said.contains(&shown), "{shown}: {said}");
    }
    let (code, said) = team.consent(&id, "ann.parts");
    assert!(code == 0 && said.contains("1 of 2 consents: 1 more"), "{said}");
    let (code, said) = team.consent(&id, "ann.parts");
    assert!(code == 0 && said.contains("duplicate_share"), "{said}");
    let (code, said) = team.consent(&id, "eve.parts");
    assert!(code == 0 && said.contains("done: v10 is staged"), "{said}");
}

#[test]
fn a_node_that_shows_one_request_and_wants_consent_to_another_gets_no_share() {
    let team = Team::unlocked();
    let shown = json!({"id": "r1", "operation": "stage", "keyring_id": "0101010101010101", "threshold": 2,
                       "holders": [{"name": "ann", "recipient": "age1ann"}]});
    let detail = json!({"id": "r1", "digest": "07".repeat(32), "operation": "stage", "version": null, "needed": 2,
                        "have": 0, "consent_version": 9, "asked": shown});
    let authority = Authority::new();
    fs::write(&team.program.ca, &authority.pem).unwrap();
    let answer: impostor::Answer = Box::new(move |_| http(200, "", &detail.to_string()));
    let node = Impostor::new(Manner::Tls(authority.tls(Certificate::Good), answer));
    let url = node.url();
    let arguments = ["--control-addr", &url, "holder", "consent", "r1", "ann.parts", "--yes"];
    let (code, said) = team.program.run(&arguments, None);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("shows one request and wants consent to another"), "{said}");
    assert!(node.requests().starts_with("GET /v1/requests/r1 "), "{}", node.requests());
    assert!(!node.requests().contains("POST") && node.connections() == 1);
}

/// What the manifest says of the holders.
fn holders(team: &Team) -> Vec<(String, Json)> {
    let versions = team.world.get("/v1/versions");
    let holders = versions["versions"][0]["holders"].as_array().unwrap();
    holders
        .iter()
        .map(|holder| (holder["name"].as_str().unwrap().to_owned(), holder["recipient"].clone()))
        .collect()
}

#[test]
fn a_lost_laptop_is_replaced_and_the_old_shares_are_refused_with_what_to_do() {
    let team = Team::unlocked();
    let joe = team.recipient("joe");
    let (code, said) = team.run(&["rotate", "replace", "joe"], Some(OPERATOR));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("joe holds no share of v9: ann, bob, eve do"), "{said}");
    let with = format!("joe={joe}");
    let id = team.asked(&["rotate", "replace", "eve", "--with", &with]);
    for (name, shown) in [("ann", "1 of 2 consents"), ("bob", "done")] {
        let (code, said) = team.consent(&id, &format!("{name}.parts"));
        assert!(code == 0 && said.contains(shown), "{said}");
    }
    team.done(&["rotate", "packages", "v9", "--out", "new"]);
    for name in ["ann", "bob", "joe"] {
        let (code, said) = team.open(&format!("new/{name}.age"), name, &format!("{name}.new"));
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("all is well"), "{said}");
    }
    let recipients: Vec<_> =
        ["ann", "bob", "joe"].map(|name| (name.to_owned(), json!(team.recipient(name)))).into();
    assert_eq!(holders(&team), recipients);
    let (code, said) = team.run(&["holder", "prove", "eve.parts"], None);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("(share_replaced). Use your newest parts file, and destroy this share"), "{said}");
}

#[test]
fn a_reshare_changes_the_threshold_and_keeps_the_recipients_of_those_who_stay() {
    let team = Team::unlocked();
    let said = team.done(&["rotate", "reshare", "--threshold", "3"]);
    assert!(said.contains("3 shares needed instead of 2"), "{said}");
    let id = said.lines().find_map(|line| line.strip_prefix("request ")).unwrap();
    assert!(said.contains(&format!("keymoot holder consent {id} FILE")), "{said}");
    assert!(said.contains("keymoot rotate packages v9"), "{said}");
    for name in HOLDERS {
        assert!(said.contains(&format!("{name}\tstays\t{}", team.recipient(name))), "{said}");
    }
    team.done(&["rotate", "withdraw", id]);
    let joe = format!("joe={}", team.recipient("joe"));
    let said = team.done(&["rotate", "reshare", "v9", "--holder", "ann", "--holder", "bob", "--holder", &joe]);
    assert!(said.contains("eve\tgoes\t\n") && said.contains("joe\tcomes\tage1"), "{said}");
}

#[test]
fn what_can_not_be_asked_for_is_refused_before_a_holder_is_called() {
    let team = Team::unlocked();
    fs::write(team.program.home.join("witness"), "km:v9:AAAA\n").unwrap();
    for (arguments, says) in [
        (["rotate", "retire-override", "v9", "--reason", "the archive is lost"], "only a decrypt-only version"),
        (["rotate", "import", "v9", "--witness", "witness"], "there is nothing to import"),
        (["rotate", "reshare", "v8", "--threshold", "3"], "no v8"),
    ] {
        let (code, said) = team.run(&arguments, Some(OPERATOR));
        assert!(matches!(code, 1 | 2) && said.contains(says), "{arguments:?}: {code} {said}");
    }
}
