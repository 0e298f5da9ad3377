//! `/api/openapi.json` (OpenAPI 3.1), from the same lists of routes that the tests go through.

use axum::{Json, response::IntoResponse};
use kernel::Language;
use sensing::{Audience, Route};
use serde_json::{Map, Value, json};

/// The description of `routes`.
pub fn document(routes: &[Route], title: &str) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let (path, parameters) = template(route.path);
        let parameters: Vec<Value> = parameters
            .iter()
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": parameter(name)}))
            .collect();
        let security = match route.audience {
            Audience::Public => json!([{}, {"key": []}, {"session": []}]),
            Audience::SignedIn | Audience::Role(_) => json!([{"key": []}, {"session": []}]),
            Audience::DeviceKey => json!([{"key": []}, {"device": []}]),
        };
        let page = route.path.starts_with("/{language}");
        let mut operation = json!({
            "summary": route.summary,
            "operationId": format!("{}{}", route.method.to_ascii_lowercase(), operation_name(route.path)),
            "tags": [route.action.0.split(':').next().unwrap_or_default()],
            "x-lamppost-action": route.action.0,
            "parameters": parameters,
            "security": security,
            "responses": {
                "2XX": {"description": "Done."},
                "3XX": {"description": "The answer is at another address, or has not changed."},
                "4XX": {"$ref": "#/components/responses/Problem"},
                "5XX": {"$ref": "#/components/responses/Problem"},
            },
        });
        if matches!(route.method, "POST" | "PUT" | "PATCH") {
            let (kind, schema) = if page {
                (
                    "application/x-www-form-urlencoded",
                    json!({"type": "object", "additionalProperties": {"type": "string"}}),
                )
            } else {
                ("application/json", json!({"type": ["object", "array"]}))
            };
            operation["requestBody"] = json!({"content": {kind: {"schema": schema}}});
        }
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[route.method.to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": title, "version": env!("CARGO_PKG_VERSION"), "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key or a device's key."},
                "device": {"type": "http", "scheme": "basic", "description": "A device's key as the password."},
                "session": {"type": "apiKey", "in": "cookie", "name": "__Host-lamppost"},
            },
            "responses": {"Problem": {
                "description": "What went wrong (RFC 9457).",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }},
            "schemas": {"Problem": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": {"type": "string", "format": "uri-reference"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "errors": {"type": "array", "items": {
                        "type": "object",
                        "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
                    }},
                },
            }},
        },
    })
}

/// What a part of the address may be.
fn parameter(name: &str) -> Value {
    match name {
        "language" => json!({"type": "string", "enum": Language::ALL.map(Language::segment)}),
        _ => json!({"type": "string", "minLength": 1}),
    }
}

/// docs/endpoints.md: the same list for people, one table a room.
pub fn table(routes: &[Route]) -> String {
    let mut out = String::from(
        "# Endpoints\n\nEvery address of the program, who may reach it, and what the policy is asked (`packs/*/policies`). What a caller then sees \
         or changes is decided\nfor each department's data: what one may not see answers as what does not exist. *Audited* calls leave a row in \
         the audit.\n\nMade by `lamppost check --endpoints`; tests and `/api/openapi.json` come from the same list.\n",
    );
    let room = |route: &Route| route.action.0.split(':').next().unwrap_or_default();
    let mut sorted: Vec<&Route> = routes.iter().collect();
    sorted.sort_by_key(|r| (room(r), r.path, r.method));
    for of_room in sorted.chunk_by(|a, b| room(a) == room(b)) {
        let name = of_room.first().map_or("", |r| room(r));
        out.push_str(&format!(
            "\n## {name}\n\n| Method | Address | Who | Action | Audited | What |\n|---|---|---|---|---|---|\n"
        ));
        for Route { method, path, action, audience, audit, summary } in of_room {
            let who = match audience {
                Audience::Public => "everybody".to_owned(),
                Audience::SignedIn => "who is signed in or has a key".to_owned(),
                Audience::Role(role) => format!("role `{role}`"),
                Audience::DeviceKey => "a device".to_owned(),
            };
            let audited = if *audit { "yes" } else { "" };
            out.push_str(&format!(
                "| {method} | `{path}` | {who} | `{}` | {audited} | {} |\n",
                action.0,
                summary.trim_end_matches('.')
            ));
        }
    }
    out
}

/// `/v1.1/{*path}` as OpenAPI writes it, and the names in it.
fn template(path: &str) -> (String, Vec<&str>) {
    let names =
        path.split('{').skip(1).filter_map(|p| p.split('}').next()).map(|n| n.trim_start_matches('*')).collect();
    (path.replace("{*", "{"), names)
}

fn operation_name(path: &str) -> String {
    let mut out = String::new();
    for word in path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()) {
        let (head, tail) = word.split_at(1);
        out.push_str(&head.to_ascii_uppercase());
        out.push_str(tail);
    }
    out
}

/// Answers the document, made once.
pub fn router(document: Value) -> axum::Router {
    axum::Router::new().route(
        "/api/openapi.json",
        axum::routing::get(move || std::future::ready(Json(document.clone()).into_response())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensing::route::action;

    #[test]
    fn the_document_is_made_from_the_list() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/endpoints.md");
        let document = std::fs::read_to_string(path).unwrap();
        let made = table(&crate::compose::routes());
        assert!(document == made, "lamppost check --endpoints > docs/endpoints.md");
    }

    #[test]
    fn describes_every_route() {
        let routes = [
            Route {
                method: "GET",
                path: "/v1.1/{*path}",
                action: action::READ,
                audience: Audience::Public,
                audit: false,
                summary: "Read",
            },
            Route {
                method: "POST",
                path: "/v1.1/{*path}",
                action: action::WRITE,
                audience: Audience::SignedIn,
                audit: true,
                summary: "Create",
            },
        ];
        let document = document(&routes, "City");
        let item = &document["paths"]["/v1.1/{path}"];
        assert_eq!(item["get"]["parameters"][0]["name"], "path");
        assert_eq!(item["post"]["operationId"], "postV11Path");
        assert_eq!(item["post"]["security"].as_array().unwrap().len(), 2);
    }
}
