use super::*;

#[test]
fn a_request_is_told_by_its_operation() {
    let stage: RequestBody = body::parse(br#"{"operation":"stage"}"#).unwrap();
    assert_eq!(stage, RequestBody::Stage(StageRequest::default()));
    let retire: RequestBody =
        body::parse(br#"{"version":9,"reason":"lost","operation":"retire-override"}"#).unwrap();
    assert_eq!(retire.operation(), "retire-override");
    assert_eq!(serde_json::to_value(&retire).unwrap()["operation"], "retire-override");
    let window: RequestBody = body::parse(br#"{"operation":"window","members":["db1"],"for":"2h"}"#).unwrap();
    assert_eq!(serde_json::to_value(&window).unwrap()["for"], "2h");
}

#[test]
fn a_request_is_read_as_strictly_as_the_rest() {
    for (text, says) in [
        ("{}", "missing field `operation`"),
        (r#"{"operation":"burn"}"#, "unknown variant"),
        (r#"{"operation":"stage","operation":"stage"}"#, "duplicate field"),
        (r#"{"operation":"stage","version":10}"#, "unknown field `version`"),
        (r#"{"operation":"stage","threshold":2,"threshold":3}"#, "duplicate field"),
        (r#"{"operation":"import","version":9}"#, "missing field `witness`"),
        (r#"{"operation":"stage","holders":[["ann",null]]}"#, "expected an object"),
        (r#"{"operation":"window","members":["db1"],"for":2}"#, "expected a string"),
    ] {
        let problem = body::parse::<RequestBody>(text.as_bytes()).unwrap_err();
        assert!(problem.detail.contains(says), "{text}: {}", problem.detail);
    }
}

#[test]
fn the_bodies_of_the_steps_are_all_optional_and_nothing_else() {
    assert_eq!(body::parse::<ActivateRequest>(b"").unwrap(), ActivateRequest::default());
    let text =
        br#"{"exclude":[{"node":"db2","for":"24h"}],"excuse":["bob"],"dry_run":true,"override":"v10 is lost"}"#;
    let request: ActivateRequest = body::parse(text).unwrap();
    assert_eq!(request.override_reason.as_deref(), Some("v10 is lost"));
    assert!(body::parse::<RetireRequest>(br#"{"gone":["customers.ssn"]}"#).is_ok());
    assert!(body::parse::<RetireRequest>(br#"{"override":"x"}"#).is_err());
    assert!(body::parse::<StepRequest>(br#"{"gone":[]}"#).is_err());
    assert!(body::parse::<StepRequest>(br#"{"dry_run":"yes"}"#).is_err());
}

#[test]
fn the_state_of_a_consent_is_the_nodes_and_then_the_versions() {
    let state = |text: &str| serde_json::from_str::<ConsentState>(text).unwrap();
    assert_eq!(state("\"staged\""), ConsentState::Version(VersionState::Staged));
    assert_eq!(state("\"unlocked\""), ConsentState::Node(NodeState::Unlocked));
}
