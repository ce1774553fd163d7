use keymoot_api::data::EncryptAnswer;
use keymoot_types::Wiped;

use super::*;

fn answer(status: u16, verdict: Option<&str>, body: &str) -> Answer {
    Answer {
        status,
        verdict: verdict.map(str::to_owned),
        retry_after: Some(Duration::from_secs(2)),
        body: Wiped::from(body.as_bytes()),
    }
}

fn problem_json(code: ErrorCode) -> String {
    serde_json::to_string(&Problem::new(code, "x")).unwrap()
}

fn judged(status: u16, verdict: Option<&str>, body: &str) -> Verdict<EncryptAnswer> {
    judge(&answer(status, verdict, body))
}

const GOOD: &str = r#"{"ciphertext":"km:v1:x","version":1}"#;

#[test]
fn only_a_positive_statement_is_a_verdict() {
    assert!(matches!(judged(200, Some("valid"), GOOD), Verdict::Valid(_)));
    for code in [ErrorCode::MalformedCiphertext, ErrorCode::AuthenticationFailed, ErrorCode::KeyVersionRetired] {
        let verdict = judged(code.status(), Some("invalid"), &problem_json(code));
        assert!(matches!(verdict, Verdict::Invalid(_)), "{verdict:?}");
    }
}

#[test]
fn every_other_code_is_undetermined_whatever_the_header_says() {
    for code in ErrorCode::ALL.into_iter().filter(|code| code.verdict() == Word::Undetermined) {
        for header in ["undetermined", "invalid", "valid"] {
            let verdict = judged(code.status(), Some(header), &problem_json(code));
            assert!(matches!(verdict, Verdict::Undetermined(Trouble::Problem(_))), "{verdict:?}");
        }
    }
}

#[test]
fn an_answer_that_is_not_ours_is_undetermined() {
    let refused = problem_json(ErrorCode::AuthenticationFailed);
    for (status, verdict, body) in [
        (422, None, refused.as_str()),
        (200, None, GOOD),
        (404, None, "<html>not here</html>"),
        (410, Some("invalid"), "<html>gone</html>"),
        (422, Some("invalid"), r#"{"status":422,"code":"from_the_future","verdict":"invalid"}"#),
        (401, Some("invalid"), refused.as_str()),
        (422, Some("undetermined"), refused.as_str()),
        (200, Some("invalid"), GOOD),
        (200, Some("valid"), "{"),
        (200, Some("mixed"), GOOD),
        (302, None, ""),
    ] {
        let verdict = judged(status, verdict, body);
        assert!(matches!(verdict, Verdict::Undetermined(_)), "{status}: {verdict:?}");
    }
}

#[test]
fn trouble_that_may_pass_is_told_from_trouble_that_does_not() {
    let trouble = |code| Trouble::of(Problem::new(code, "x"));
    for code in [ErrorCode::Overloaded, ErrorCode::RateLimited, ErrorCode::Sealed] {
        assert!(trouble(code).may_pass());
    }
    for code in [ErrorCode::InDoubt, ErrorCode::KeyVersionUnavailable, ErrorCode::Forbidden, ErrorCode::BadRequest]
    {
        assert!(!trouble(code).may_pass());
    }
    assert!(Trouble::Transport(TransportError::Timeout { addr: "x".into() }).may_pass());
}

#[test]
fn the_header_says_when_to_ask_again_if_the_body_does_not() {
    let Verdict::Undetermined(trouble) = judged(503, Some("undetermined"), &problem_json(ErrorCode::Overloaded))
    else {
        panic!("not undetermined")
    };
    assert_eq!(trouble.retry_after(), Some(Duration::from_secs(2)));
}
