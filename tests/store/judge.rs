//! What the daemon acknowledged is there after it was started again, and what it did not is there as a whole or not at all.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keymoot_types::audit::Verifier;
use serde_json::{Value as Json, json};

use crate::{
    harness::oracle,
    story::{ROWS, Story, plaintext},
};

impl Story {
    /// Of a daemon that was just started, unharmed. What is found counts as acknowledged from now on.
    #[track_caller]
    pub fn check(&mut self) {
        self.check_log();
        let status = self.world.get("/v1/status");
        let Some(keyring) = &self.acked.keyring else {
            assert!(["uninitialised", "sealed"].contains(&status["state"].as_str().unwrap()), "{status}");
            return;
        };
        assert_eq!(status["keyring_id"], *keyring, "{status}");
        self.unlocked().unwrap();
        self.check_versions();
        self.world.until("the manifest is the store's", || {
            (self.world.get("/v1/status")["manifest"] == "store").then_some(())
        });
        let proofs = self.world.get("/v1/status")["last_proofs"].clone();
        for (version, holder) in &self.acked.proofs {
            let proved = |proof: &Json| {
                proof["version"] == *version && proof["holder"] == holder.as_str() && !proof["proved_at"].is_null()
            };
            let known = proofs.as_array().unwrap().iter().any(proved);
            assert!(known, "v{version} was proved by {holder}: {proofs}");
        }
        if let Some((id, state)) = &self.acked.job {
            let job = self.world.get(&format!("/v1/rekey/{id}"));
            assert!(state == "running" || job["state"] == *state, "{state}: {job}");
        }
        self.check_rows();
        self.check_file();
    }

    /// A second implementation opens every row, by the shares alone.
    pub fn check_outside(&self) {
        let mut versions: Vec<u32> = self.world.shares.iter().map(|(version, _, _)| *version).collect();
        versions.dedup();
        let expected = (1..=ROWS).map(|row| json!([row, {"plaintext": plaintext(row)}])).collect();
        oracle::check_table(&self.world, &versions, expected);
    }

    fn check_versions(&mut self) {
        let found = self.versions().unwrap();
        let doing = self.acked.doing.take();
        for (version, state) in &self.acked.versions {
            let now = found.get(version).unwrap_or_else(|| panic!("v{version} is gone: {found:?}"));
            let may_be = match doing {
                Some((of, states)) if of == *version => states,
                // A version that was the primary until the one in question became it.
                Some((_, ["staged", "activating", "primary"])) if state == "primary" => &["decrypt-only"],
                _ => &[][..],
            };
            assert!(
                now == state || may_be.contains(&now.as_str()),
                "v{version} was {state}: {found:?}, {doing:?}"
            );
        }
        let more: Vec<_> =
            found.iter().filter(|(version, _)| !self.acked.versions.contains_key(version)).collect();
        let asked = matches!(doing, Some((_, ["staged"])));
        assert!(more.is_empty() || (asked && more.len() == 1 && more[0].1 == "staged"), "{found:?}, {doing:?}");
        self.acked.versions = found;
    }

    /// Every value opens to what it was made of.
    fn check_rows(&mut self) {
        if !self.world.path("app.db").exists() {
            return;
        }
        // Asked first: a job whose answer was lost goes on by itself, and may end while its rows are looked at.
        let over = self.world.get("/v1/rekey")["state"] == "completed";
        let table = rusqlite::Connection::open(self.world.path("app.db")).unwrap();
        let mut rows = table.prepare("SELECT token FROM tokens ORDER BY id").unwrap();
        let rows: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let items: Vec<_> = rows.iter().map(|value| json!({"ciphertext": value})).collect();
        let opened = self.values("decrypt", json!({"items": items}), "plaintext").unwrap();
        let expected: Vec<_> = (1..=ROWS).map(|row| STANDARD.encode(plaintext(row))).collect();
        assert_eq!(opened, expected);
        if let Some((_, state)) = &self.acked.job
            && state == "completed"
            && self.acked.doing.is_none()
        {
            let primary = self.acked.versions.iter().find(|(_, state)| *state == "primary").unwrap().0;
            let old = rows.iter().filter(|value| !value.starts_with(&format!("km:v{primary}:"))).count();
            assert!(old == 0 || old == ROWS || !over, "{old} rows");
        }
    }

    /// The log is one chain, and of each deed that was acknowledged its intent is in it.
    fn check_log(&self) {
        let mut verifier = Verifier::starting_at(1);
        let text = std::fs::read_to_string(self.world.data_dir().join("audit.jsonl")).unwrap();
        // Its last line may be being written.
        let text = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        verifier.feed(text.as_bytes(), &mut |_| Ok(()));
        let report = verifier.finish();
        assert!(report.is_whole(), "{report:?}");
        let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let intents =
            |event: &str| lines.iter().filter(|line| line["event"] == event && line["phase"] == "intent").count();
        let states = self.acked.versions.values();
        let activated =
            states.clone().filter(|state| ["primary", "decrypt-only"].contains(&state.as_str())).count();
        assert!(intents("init") >= usize::from(self.acked.keyring.is_some()));
        assert!(intents("activate") + 1 >= activated, "{:?}", self.acked.versions);
        let aborted = states.filter(|state| *state == "aborted").count();
        assert!(intents("abort") >= aborted && intents("consent") >= 2 * (activated.max(1) - 1 + aborted));
    }

    /// The store's file is one that SQLite finds no fault with.
    fn check_file(&self) {
        let store = rusqlite::Connection::open(self.world.data_dir().join("meta.db")).unwrap();
        let verdict: String = store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok");
    }
}
