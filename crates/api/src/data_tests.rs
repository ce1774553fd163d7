use super::*;

type Body = OneOrMany<EncryptRequest>;

#[test]
fn a_single_body_and_a_batch_are_told_apart_by_their_items() {
    let Ok(Body::One(one)) = Body::parse(br#"{"plaintext":"aGk="}"#) else { panic!("not one") };
    assert_eq!(&*one.plaintext, b"hi");
    let Ok(Body::Many { items }) = Body::parse(br#"{"items":[{"plaintext":"","reference":"r"}]}"#) else {
        panic!("not many")
    };
    assert_eq!(items.len(), 1);
    assert!(items[0].plaintext.is_empty());
    assert_eq!(items[0].reference.as_deref(), Some("r"));
    assert_eq!(Body::parse(br#"{"items":[]}"#), Ok(Body::Many { items: vec![] }));
}

#[test]
fn both_shapes_are_read_strictly() {
    for (body, says) in [
        (r#"{"plaintext":"aGk=","plaintext":"aGk="}"#, "duplicate field `plaintext`"),
        (r#"{"plaintext":"aGk=","x":1}"#, "unknown field `x`"),
        (r#"{"plaintext":5}"#, "base64"),
        (r#"{"plaintext":"aGk"}"#, "base64"),
        (r#"{"plaintext":"aGl="}"#, "base64"),
        (r#"{"plaintext":"-_8="}"#, "base64"),
        ("{}", "missing field `plaintext`"),
        ("[]", "invalid type: sequence, expected an object"),
        (r#"{"items":[["aGk=",null,null]]}"#, "invalid type: sequence, expected an object"),
        (r#"{"items":[{"plaintext":"aGk=","x":1}]}"#, "unknown field `x`"),
        (r#"{"items":[],"items":[]}"#, "duplicate field `items`"),
        (r#"{"items":[],"plaintext":"aGk="}"#, "unknown field `plaintext`"),
        (r#"{"plaintext":"aGk=","items":[]}"#, "unknown field `plaintext`"),
        (r#"{"items":{}}"#, "a list of items"),
    ] {
        let problem = Body::parse(body.as_bytes()).unwrap_err();
        assert_eq!(problem.code, ErrorCode::BadRequest, "{body}");
        assert!(problem.detail.contains(says), "{body}: {}", problem.detail);
    }
}

#[test]
fn one_item_too_many_is_too_large_and_says_how_many() {
    let batch = |count: usize| format!(r#"{{"items":[{}]}}"#, vec![r#"{"plaintext":""}"#; count].join(","));
    assert!(Body::parse(batch(ITEMS_MAX).as_bytes()).is_ok());
    let problem = Body::parse(batch(ITEMS_MAX + 2).as_bytes()).unwrap_err();
    assert_eq!(problem.code, ErrorCode::TooLarge);
    assert!(problem.detail.contains("10002"), "{}", problem.detail);
}

#[test]
fn the_answers_to_a_batch_keep_their_order_and_their_references() {
    let answers = vec![
        ItemAnswer::Done(DecryptAnswer {
            plaintext: Base64Bytes::new(b"hi".to_vec()),
            version: KeyVersion::MIN,
            verdict: Verdict::Valid,
            rewrapped: None,
            reference: Some("a".into()),
        }),
        ItemAnswer::Failed {
            error: Box::new(Problem::new(ErrorCode::AuthenticationFailed, "no")),
            reference: Some("b".into()),
        },
    ];
    let json = serde_json::to_string(&OneOrMany::Many { items: answers.clone() }).unwrap();
    assert_eq!(parse_item_answers(json.as_bytes()).unwrap(), answers);
}

#[test]
fn an_answer_with_fields_of_a_newer_server_is_understood() {
    let json = r#"{"ciphertext":"km:v1:x","version":1,"colour":"red"}"#;
    assert_eq!(serde_json::from_str::<EncryptAnswer>(json).unwrap().version, KeyVersion::MIN);
}

#[test]
fn a_data_key_has_256_bits_unless_512_are_wanted() {
    assert_eq!(body::parse::<DataKeyRequest>(b"").unwrap(), DataKeyRequest::default());
    assert_eq!(body::parse::<DataKeyRequest>(br#"{"bits":512}"#).unwrap().bits.bytes(), 64);
    assert!(body::parse::<DataKeyRequest>(br#"{"bits":128}"#).is_err());
    assert!(body::parse::<DataKeyRequest>(br#"{"bits":"256"}"#).is_err());
}

#[test]
fn a_plaintext_does_not_show_itself() {
    let request = EncryptRequest {
        plaintext: Base64Bytes::new(b"4111111111111111".to_vec()),
        associated_data: None,
        reference: None,
    };
    assert!(!format!("{request:?}").contains("4111"));
}
