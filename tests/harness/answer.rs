//! What a daemon answered.

use serde_json::Value as Json;

pub struct Answer {
    pub status: u16,
    pub verdict: Option<String>,
    pub json: Json,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Json {
        assert_eq!(self.status, status, "{}", self.json);
        self.json
    }

    /// A refusal of the data API, and that its verdict is what its status says.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str, verdict: &str) -> Json {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.json);
        assert_eq!(self.json["verdict"], verdict);
        assert_eq!(self.verdict.as_deref(), Some(verdict));
        self.json
    }
}
