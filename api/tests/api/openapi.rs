//! The OpenAPI document against the route table.

use std::collections::BTreeSet;

use crate::support::*;

#[test]
fn the_document_has_every_route_and_no_other() {
    with_world(|world| async move {
        let document = world.get("/openapi.json").await.json();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                described.insert(format!("{} {path}", method.to_uppercase()));
                assert!(operation["summary"].is_string(), "{method} {path} says what it does");
                assert!(operation["operationId"].is_string(), "{method} {path} has a name");
            }
        }
        let table = api::routes::table(&world.api);
        let routes: BTreeSet<String> = table.names().iter().map(|&name| name.to_owned()).collect();
        assert_eq!(described, routes);
        assert_eq!(document["openapi"].as_str().map(|version| &version[..2]), Some("3."));
        assert_eq!(document["components"]["securitySchemes"]["key"]["scheme"], "bearer");
    });
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    let document = serde_json::to_value(api::openapi::document()).unwrap();
    let text = document.to_string();
    for piece in text.split("\"$ref\":\"#").skip(1) {
        let pointer = piece.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}
