//! `docs/openapi.json` says what the program does: every address, every code, and every field of every body.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets what it did not expect ends there"
)]

use std::collections::BTreeSet;

use keymoot_api::{
    Missing, Problem, census, data, init, rekey, rotate,
    routes::{self, Listener, Method, Who},
    status, unlock, upkeep,
};
use keymoot_types::{ErrorCode, RefusalCode, plan};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value as Json, json};

fn document() -> Json {
    serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap()
}

fn schema<'d>(document: &'d Json, reference: &str) -> &'d Json {
    &document["components"]["schemas"][reference.rsplit('/').next().unwrap()]
}

#[test]
fn every_address_that_is_served_stands_in_the_document_and_no_other() {
    let document = document();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let needs_token = operation["security"][0] == json!({"token": []});
            let listener = operation["tags"][0].as_str().unwrap().to_owned();
            documented.insert((
                path.clone(),
                method.clone(),
                listener,
                needs_token,
                operation.get("requestBody").is_some(),
            ));
        }
    }
    // Ending a doubt is not served yet.
    let served = routes::ALL.iter().filter(|route| **route != routes::DOUBT_ACKNOWLEDGE);
    let served: BTreeSet<_> = served
        .map(|route| {
            let method = match route.method {
                Method::Get => "get",
                Method::Post => "post",
                Method::Patch => "patch",
                Method::Delete => "delete",
            };
            let listener = if route.listener == Listener::Data { "data" } else { "control" };
            let needs_token = !matches!(route.who, Who::Anyone | Who::Holder);
            (route.path.to_owned(), method.to_owned(), listener.to_owned(), needs_token)
        })
        .collect();
    let without_bodies: BTreeSet<_> = documented
        .iter()
        .cloned()
        .map(|(path, method, listener, token, _)| (path, method, listener, token))
        .collect();
    assert_eq!(without_bodies, served);
    let reads_with_a_body = documented.iter().any(|(_, method, .., body)| method == "get" && *body);
    assert!(!reads_with_a_body);
}

#[test]
fn every_code_stands_in_the_document() {
    let document = document();
    let codes = |name: &str| document["components"]["schemas"][name]["enum"].as_array().unwrap().clone();
    let errors: Vec<_> = ErrorCode::ALL.iter().map(|code| json!(code)).collect();
    assert_eq!(codes("ErrorCode"), errors);
    for code in codes("RefusalCode") {
        let read: RefusalCode = serde_json::from_value(code.clone()).unwrap();
        assert_eq!(json!(read), code);
    }
}

/// A body with every field of a schema, or with those alone that must be there.
fn body(document: &Json, schema_of: &Json, all: bool) -> Json {
    let of = |schema: &Json| body(document, schema, all);
    if let Some(reference) = schema_of["$ref"].as_str() {
        return match reference.rsplit('/').next().unwrap() {
            "KeyVersion" => json!(9),
            "KeyId" => json!("0a".repeat(16)),
            "KeyringId" => json!("0a".repeat(8)),
            "Digest" => json!("0a".repeat(32)),
            "Duration" => json!("1h"),
            _ => of(schema(document, reference)),
        };
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(first) = schema_of[choice].get(0) {
            return of(first);
        }
    }
    if let Some(fixed) = schema_of.get("const").or(schema_of["enum"].get(0)) {
        return fixed.clone();
    }
    match (schema_of["type"].as_str(), schema_of["format"].as_str()) {
        (Some("string"), Some("byte")) => json!("eA=="),
        (Some("string"), Some("date-time")) => json!("2026-01-01T00:00:00Z"),
        (Some("string"), _) => json!("a"),
        (Some("boolean"), _) => json!(true),
        (Some("number"), _) => json!(1.5),
        (Some("array"), _) => json!([of(&schema_of["items"])]),
        (Some("object"), _) if schema_of["additionalProperties"].is_object() => json!({"a": "a"}),
        (Some("object"), _) => {
            let required =
                |name: &String| schema_of["required"].as_array().is_some_and(|names| names.contains(&json!(name)));
            let properties = schema_of["properties"].as_object().unwrap();
            let wanted = properties.iter().filter(|(name, _)| all || required(name));
            Json::Object(wanted.map(|(name, schema)| (name.clone(), of(schema))).collect::<Map<_, _>>())
        }
        _ => json!(2),
    }
}

/// Reads what the schema says, and writes it back: nothing is unknown, nothing is missing, nothing is called otherwise.
fn agrees<T: Serialize + DeserializeOwned>(document: &Json, name: &str) {
    let schema = schema(document, name);
    let mut full = body(document, schema, true);
    // Signed by a real key, or nothing.
    full.as_object_mut().unwrap().retain(|field, _| field != "head");
    let read: T = serde_json::from_value(full.clone()).unwrap_or_else(|error| panic!("{name}: {error}\n{full}"));
    assert_eq!(serde_json::to_value(read).unwrap(), full, "{name}");
    let least = body(document, schema, false);
    serde_json::from_value::<T>(least.clone()).unwrap_or_else(|error| panic!("{name}: {error}\n{least}"));
}

macro_rules! agree {
    ($document:expr, $($name:literal: $type:ty,)*) => {{
        $(agrees::<$type>($document, $name);)*
        BTreeSet::from([$($name.to_owned()),*])
    }};
}

#[test]
fn every_body_has_the_fields_of_its_schema_and_no_other() {
    let document = document();
    let agreeing = agree!(&document,
        "Missing": Missing, "Problem": Problem,
        "EncryptRequest": data::EncryptRequest, "EncryptAnswer": data::EncryptAnswer,
        "DecryptRequest": data::DecryptRequest, "DecryptAnswer": data::DecryptAnswer,
        "RewrapRequest": data::RewrapRequest, "DataKeyRequest": data::DataKeyRequest,
        "DataKeyAnswer": data::DataKeyAnswer, "DataKeyDecryptRequest": data::DataKeyDecryptRequest,
        "DataKeyDecryptAnswer": data::DataKeyDecryptAnswer, "KeyInfo": data::KeyInfo, "KeysAnswer": data::KeysAnswer,
        "HolderSpec": init::HolderSpec, "InitRequest": init::InitRequest, "InitAnswer": init::InitAnswer,
        "Package": init::Package, "PackagesAnswer": init::PackagesAnswer,
        "PartsRequest": unlock::PartsRequest, "PartsAnswer": unlock::PartsAnswer,
        "AcceptedPart": unlock::AcceptedPart, "RejectedPart": unlock::RejectedPart,
        "VersionProgress": unlock::VersionProgress, "DegradedRequest": unlock::DegradedRequest,
        "StageRequest": rotate::RequestBody, "ReshareRequest": rotate::RequestBody,
        "ReplaceRequest": rotate::RequestBody, "ImportRequest": rotate::RequestBody,
        "RetireOverrideRequest": rotate::RequestBody, "ReleaseRequest": rotate::RequestBody,
        "WindowRequest": rotate::RequestBody, "RequestAnswer": rotate::RequestAnswer,
        "RequestDetail": rotate::RequestDetail, "ConsentRequest": rotate::ConsentRequest,
        "ConsentAnswer": rotate::ConsentAnswer, "Exclusion": rotate::Exclusion,
        "ActivateRequest": rotate::ActivateRequest, "RetireRequest": rotate::RetireRequest,
        "StepRequest": rotate::StepRequest, "StepAnswer": rotate::StepAnswer,
        "VersionHolder": rotate::VersionHolder, "VersionDetail": rotate::VersionDetail,
        "VersionsAnswer": rotate::VersionsAnswer,
        "StatusAnswer": status::StatusAnswer, "WindowStatus": status::WindowStatus, "Peer": status::Peer,
        "SourceHealth": status::SourceHealth, "ReleasedSource": status::ReleasedSource, "Sample": status::Sample, "ExposedVersion": status::ExposedVersion,
        "LastProof": status::LastProof, "ReadyAnswer": status::ReadyAnswer,
        "MembersRequest": upkeep::MembersRequest, "MembersAnswer": upkeep::MembersAnswer,
        "ConfirmRequest": upkeep::ConfirmRequest, "ManifestAnswer": upkeep::ManifestAnswer,
        "Nothing": upkeep::Nothing, "AuditAnswer": upkeep::AuditAnswer,
        "CertificatesAnswer": upkeep::CertificatesAnswer, "ReloadAnswer": upkeep::ReloadAnswer,
        "RekeyRequest": rekey::RekeyRequest, "JobAnswer": rekey::JobAnswer, "Job": rekey::Job,
        "SourceProgress": rekey::SourceProgress, "JobsAnswer": rekey::JobsAnswer,
        "PlanRequest": rekey::PlanRequest, "PlanAnswer": rekey::PlanAnswer, "SourcePlan": plan::SourcePlan,
        "VersionSample": plan::VersionSample, "JobLimits": rekey::Limits,
        "PauseRequest": rekey::PauseRequest, "LimitsRequest": rekey::LimitsRequest,
        "QuarantinedRow": rekey::QuarantinedRow, "QuarantineAnswer": rekey::QuarantineAnswer,
        "CensusRequest": census::CensusRequest, "CensusAnswer": census::CensusAnswer,
        "SourceCensus": census::SourceCensus, "VersionCount": census::VersionCount,
    );
    // Batches are made of these, and liveness is one word.
    let made_of_others = [
        "EncryptBatch",
        "EncryptBatchAnswer",
        "DecryptBatch",
        "DecryptBatchAnswer",
        "RewrapBatch",
        "RewrapBatchAnswer",
        "FailedItem",
        "LiveAnswer",
        "RequestBody",
    ];
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let is_body = schema["type"] == "object" || schema["oneOf"].is_array();
        let known = agreeing.contains(name) || made_of_others.contains(&name.as_str());
        assert!(!is_body || known, "{name} is held against no type");
    }
}
