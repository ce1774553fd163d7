//! Values, as a service makes and opens them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{Answer, World};

impl World {
    pub fn encrypt(&self, plaintext: &[u8]) -> String {
        let answer = self.data("encrypt", json!({"plaintext": STANDARD.encode(plaintext)})).expect(200);
        answer["ciphertext"].as_str().unwrap().to_owned()
    }

    pub fn encrypt_all(&self, plaintexts: &[String]) -> Vec<String> {
        let mut values = Vec::new();
        for chunk in plaintexts.chunks(5000) {
            let items: Vec<_> = chunk.iter().map(|text| json!({"plaintext": STANDARD.encode(text)})).collect();
            let answer = self.data("encrypt", json!({"items": items})).expect(200);
            let items = answer["items"].as_array().unwrap();
            values.extend(items.iter().map(|item| item["ciphertext"].as_str().unwrap().to_owned()));
        }
        values
    }

    pub fn decrypt(&self, value: &str) -> Answer {
        self.data("decrypt", json!({"ciphertext": value}))
    }

    /// Opens a value that must open.
    #[track_caller]
    pub fn open(&self, value: &str) -> Vec<u8> {
        let answer = self.decrypt(value);
        assert_eq!(answer.verdict.as_deref(), Some("valid"), "{}", answer.json);
        STANDARD.decode(answer.json["plaintext"].as_str().unwrap()).unwrap()
    }
}
