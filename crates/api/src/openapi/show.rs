//! The document as a page of HTML: operations with their parameters, bodies and answers, then the schemas they refer to.
//!
//! Everything that comes from the document is escaped.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{SCHEMAS, VAULT};

/// The page for a document in JSON; one that cannot be read is said to be.
pub(super) fn page(document: &str) -> String {
    let document: Value = serde_json::from_str(document).unwrap_or_default();
    let mut html = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Switchback: the REST API</title>\
         <link rel=\"stylesheet\" href=\"/docs/style.css\"></head>\n<body>\n<h1>Switchback: the REST API</h1>\n",
    );
    html.push_str("<p>");
    escape(document["info"]["description"].as_str().unwrap_or("The document cannot be read."), &mut html);
    html.push_str("</p>\n<p>As <a href=\"/openapi.json\">OpenAPI</a>. <code>…</code> stands for <code>");
    escape(VAULT, &mut html);
    html.push_str("</code>. All but what is marked public takes <code>Authorization: Bearer TOKEN</code>, and the query <code>api-version</code>.</p>\n<h2>Operations</h2>\n");
    for (path, methods) in object(&document["paths"]) {
        for (method, operation) in object(methods) {
            show_operation(&document, path, (method, operation), &mut html);
        }
    }
    html.push_str("<h2>Schemas</h2>\n");
    for (name, schema) in object(&document["components"]["schemas"]) {
        html.push_str("<details id=\"");
        escape(name, &mut html);
        html.push_str("\"><summary><code>");
        escape(name, &mut html);
        html.push_str("</code></summary><div>");
        show_schema(schema, &mut html);
        html.push_str("</div></details>\n");
    }
    html.push_str("</body>\n</html>\n");
    html
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn show_operation(document: &Value, path: &str, (method, operation): (&str, &Value), html: &mut String) {
    html.push_str("<details><summary><b class=\"");
    escape(method, html);
    html.push_str("\">");
    escape(&method.to_ascii_uppercase(), html);
    html.push_str("</b> <code>");
    match path.strip_prefix(VAULT) {
        Some(below) => {
            html.push('…');
            escape(below, html);
        }
        None => escape(path, html),
    }
    html.push_str("</code> ");
    escape(operation["summary"].as_str().unwrap_or_default(), html);
    if operation["security"].as_array().is_some_and(Vec::is_empty) {
        html.push_str(" (public)");
    }
    html.push_str("</summary><div>\n<table>");
    // Those of the path and the version are references, and in every path.
    for parameter in
        operation["parameters"].as_array().into_iter().flatten().filter(|known| known["$ref"].is_null())
    {
        row(parameter["name"].as_str().unwrap_or_default(), &parameter["schema"], html);
    }
    row_of_content("body", &operation["requestBody"], html);
    for (status, response) in object(&operation["responses"]) {
        let known = response["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        row_of_content(status, known.and_then(|known| document.pointer(known)).unwrap_or(response), html);
    }
    html.push_str("</table></div></details>\n");
}

fn row_of_content(name: &str, has_content: &Value, html: &mut String) {
    let mut contents = object(&has_content["content"]).peekable();
    if contents.peek().is_none() && !has_content.is_null() {
        row(name, &Value::Null, html);
    }
    contents.for_each(|(_, content)| row(name, &content["schema"], html));
}

fn row(name: &str, schema: &Value, html: &mut String) {
    html.push_str("<tr><th>");
    escape(name, html);
    html.push_str("</th><td>");
    show_schema(schema, html);
    html.push_str("</td></tr>");
}

/// A link to a schema with a name, or the schema itself with links in it.
fn show_schema(schema: &Value, html: &mut String) {
    if schema.is_null() {
        html.push_str("nothing");
    } else if let Some(name) = schema["$ref"].as_str().and_then(|text| text.strip_prefix(SCHEMAS)) {
        link(name, html);
    } else if let (Some(kind), 1) = (schema["type"].as_str(), schema.as_object().map_or(0, Map::len)) {
        escape(kind, html);
    } else {
        html.push_str("<pre>");
        let text = serde_json::to_string_pretty(schema).unwrap_or_default();
        for line in text.lines() {
            let reference =
                line.split_once(SCHEMAS).and_then(|(before, rest)| Some((before, rest.split_once('"')?)));
            match reference {
                Some((before, (name, after))) => {
                    escape(before, html);
                    link(name, html);
                    escape(&format!("\"{after}"), html);
                }
                None => escape(line, html),
            }
            html.push('\n');
        }
        html.push_str("</pre>");
    }
}

fn link(name: &str, html: &mut String) {
    html.push_str("<a href=\"#");
    escape(name, html);
    html.push_str("\">");
    escape(name, html);
    html.push_str("</a>");
}

fn escape(text: &str, html: &mut String) {
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '"' | '\'' => {
                // Writing to a string does not fail.
                let _ = write!(html, "&#{};", u32::from(character));
            }
            other => html.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn everything_is_shown_and_nothing_of_it_is_markup() {
        let document = r##"{ "info": { "description": "<script>" }, "paths": { "/a": { "get": { "summary": "Shows & tells",
            "responses": { "200": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/A" } } } } } } } },
            "components": { "schemas": { "A": { "type": "array", "items": { "$ref": "#/components/schemas/\"><b>" } } } } }"##;
        let html = page(document);
        assert!(!html.contains("<script") && html.contains("&#60;script&#62;"), "{html}");
        assert!(html.contains("Shows &#38; tells") && html.contains("<a href=\"#A\">A</a>"), "{html}");
        assert!(html.contains("<details id=\"A\">") && !html.contains("\"><b>"), "{html}");
    }
}
