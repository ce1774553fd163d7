//! What services ask for over TLS: one value a request, beside the echo; batches, beside the cipher alone.

use std::{num::NonZeroU32, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use keymoot_keyring::{Keyring, stage::stage};
use keymoot_types::{KeyName, KeyVersion, Value};
use serde_json::{Value as Json, json};

use crate::{
    Scale,
    bao::Bao,
    echo::Echo,
    figures::{Goal, Side, Spread, figure, heading, ratio, row},
    harness::{KEY, SERVICE, World},
    load::{CONNECTIONS, Load, Question, Server},
    process::{memory_mb, own_cpu_seconds},
};

const PLAINTEXT_BYTES: usize = 200;
const BATCHES: [usize; 2] = [250, 1_000];
/// What `bao` takes in one batch at the most.
const BAO_BATCH: usize = 250;
const LOADED_MB: f64 = 120.0;

/// Texts of the same length and different content.
pub(crate) fn plaintexts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:0PLAINTEXT_BYTES$}")).collect()
}

pub(crate) fn measure(scale: &Scale) {
    let mut world = World::new("");
    world.start();
    world.init(24, 1);
    world.unlock(&[(1, 1)]).expect(200);
    world.unlock(&[(1, 2)]).expect(200);
    let load = Load::new(&world.data_dir().join("tls-cert.pem"));
    let daemon =
        Server { address: world.data_url().trim_start_matches("https://").parse().unwrap(), pid: world.pid() };
    let echo = Echo::start(&world.data_dir());
    let bao = scale.bao.then(|| Bao::start(&world.data_dir(), &load));
    let values = world.encrypt_all(&plaintexts(CONNECTIONS * BATCHES[1]));

    singles(scale, &load, &daemon, &echo, bao.as_ref(), &values);
    for size in BATCHES {
        batches("decrypt", scale, &load, &daemon, bao.as_ref(), &values, size);
    }
    world.rotate(1);
    for size in BATCHES {
        batches("rewrap", scale, &load, &daemon, bao.as_ref(), &values, size);
    }
    heading("memory");
    let most = memory_mb(daemon.pid, "VmHWM");
    figure("the daemon's most, over all of the above", most, "MB");
    ratio("the same, MB", most, Goal::AtMost(LOADED_MB));
}

fn question(operation: &str, bodies: impl Iterator<Item = Json>) -> Question {
    Question {
        path: format!("/v1/keys/{KEY}/{operation}"),
        header: ("authorization", format!("Bearer {SERVICE}")),
        bodies: bodies.map(|body| Bytes::from(body.to_string())).collect(),
    }
}

fn singles(scale: &Scale, load: &Load, daemon: &Server, echo: &Echo, bao: Option<&Bao>, values: &[String]) {
    let plain = STANDARD.encode(&plaintexts(1)[0]);
    let decrypt = question("decrypt", values.iter().take(CONNECTIONS).map(|value| json!({"ciphertext": value})));
    let encrypt = question("encrypt", std::iter::once(json!({"plaintext": plain})));
    for (name, question) in [("decrypt", decrypt), ("encrypt", encrypt)] {
        let theirs = bao.map(|bao| bao.question(load, name, 1));
        let (mut ours, mut ceiling, mut other) = (Side::default(), Side::default(), Side::default());
        // The first is not counted: it brings processor and allocator up to speed.
        let _warm = load.round(daemon, &question, scale.round / 4);
        for _ in 0..scale.rounds {
            ours.add(load.round(daemon, &question, scale.round));
            ceiling.add(load.round(&echo.server, &question, scale.round));
            if let (Some(bao), Some(question)) = (bao, &theirs) {
                other.add(load.round(&bao.server, question, scale.round));
            }
        }
        heading(&format!("{name}, one value a request"));
        row("keymoot, requests/s", ours.rates());
        row("axum echo behind TLS, requests/s", ceiling.rates());
        for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
            row(&format!("keymoot, {name} ms"), ours.quantile_ms(quantile));
            row(&format!("axum echo, {name} ms"), ceiling.quantile_ms(quantile));
        }
        figure("keymoot, processor us for each request", ours.cpu_us_for_each(1.0), "us");
        figure("axum echo, processor us for each request", ceiling.cpu_us_for_each(1.0), "us");
        ratio("requests, of the echo's", ours.rates().median / ceiling.rates().median, Goal::AtLeast(0.9));
        let p99 = |side: &Side| side.quantile_ms(0.99).median;
        ratio("p99, of the echo's", p99(&ours) / p99(&ceiling), Goal::AtMost(1.3));
        if bao.is_some() {
            row("bao transit, requests/s", other.rates());
            row("bao transit, p99 ms", other.quantile_ms(0.99));
            ratio("requests, of bao's", ours.rates().median / other.rates().median, Goal::AtLeast(8.0));
        }
    }
}

fn batches(
    operation: &str,
    scale: &Scale,
    load: &Load,
    daemon: &Server,
    bao: Option<&Bao>,
    values: &[String],
    size: usize,
) {
    let bodies = values.chunks(size).take(CONNECTIONS).map(|chunk| {
        let items: Vec<Json> = chunk.iter().map(|value| json!({"ciphertext": value})).collect();
        json!({"items": items})
    });
    let question = question(operation, bodies);
    let theirs = bao.map(|bao| (bao, bao.question(load, operation, BAO_BATCH)));
    let (mut ours, mut other, mut alone) = (Side::default(), Side::default(), Vec::new());
    let cipher = Cipher::new(size);
    for _ in 0..scale.rounds {
        ours.add(load.round(daemon, &question, scale.round));
        alone.push(cipher.cpu_us(operation));
        if let Some((bao, question)) = &theirs {
            other.add(load.round(&bao.server, question, scale.round));
        }
    }
    let per_value = ours.cpu_us_for_each(size as f64);
    let rates = ours.rates().scaled(size as f64);
    let alone = Spread::of(alone.into_iter());
    heading(&format!("{operation}, batches of {size}"));
    row("keymoot, values/s", rates);
    row("p99 of a batch, ms", ours.quantile_ms(0.99));
    figure("keymoot, processor us for each value", per_value, "us");
    row("the cipher alone in this process, us", alone);
    ratio("processor time, of the cipher's alone", per_value / alone.median, Goal::AtMost(2.5));
    if bao.is_some() {
        let theirs = other.rates().scaled(BAO_BATCH as f64);
        row("bao transit in batches of 250, values/s", theirs);
        let goal = if operation == "rewrap" { 8.0 } else { 6.0 };
        ratio("values, of bao's", rates.median / theirs.median, Goal::AtLeast(goal));
    }
}

/// The same work on the keyring, without requests, JSON or base64.
struct Cipher {
    keyring: Keyring,
    key: KeyName,
    values: Vec<Value>,
}

impl Cipher {
    fn new(count: usize) -> Self {
        let id = keymoot_keyring::stage::new_keyring_id().unwrap();
        let holders: Vec<_> = ["a", "b"].map(|name| (name.parse().unwrap(), None)).into();
        let versions: Vec<_> = [1, 2]
            .map(|number: u32| stage(id, KeyVersion::new(number).unwrap(), 2, &holders).unwrap().validated)
            .into();
        let key: KeyName = KEY.parse().unwrap();
        let keys = [key.clone()];
        let old = Keyring::new(versions[..1].iter().map(Arc::clone), Some(KeyVersion::MIN), &keys);
        let values =
            plaintexts(count).iter().map(|text| old.encrypt(&key, text.as_bytes(), b"").unwrap()).collect();
        let primary = KeyVersion::new(NonZeroU32::MIN.get() + 1).ok();
        Self { keyring: Keyring::new(versions, primary, &keys), key, values }
    }

    /// Processor microseconds for each value.
    fn cpu_us(&self, operation: &str) -> f64 {
        const TIMES: usize = 40;
        let begin = own_cpu_seconds();
        for _ in 0..TIMES {
            for value in &self.values {
                if operation == "rewrap" {
                    std::hint::black_box(self.keyring.rekey(&self.key, value, b"").unwrap());
                } else {
                    std::hint::black_box(self.keyring.decrypt(&self.key, value, b"").unwrap());
                }
            }
        }
        1e6 * (own_cpu_seconds() - begin) / (TIMES * self.values.len()) as f64
    }
}
