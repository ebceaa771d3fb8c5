//! What the store's answers mean for a replica, without secrets.

use azure_core::error::ErrorKind;
use switchback_replica::store::BlobError;

/// The meaning of a failed call.
pub(crate) fn blob_error(blob: &str, action: &str, error: &azure_core::Error) -> BlobError {
    let detail = || without_secrets(&words(error));
    let blob = blob.to_owned();
    match error.kind() {
        ErrorKind::HttpResponse { status, .. } => match u16::from(*status) {
            404 => BlobError::Missing { blob },
            416 => BlobError::Short { blob },
            409 | 412 => BlobError::Refused { blob, detail: detail() },
            401 | 403 => BlobError::Denied { detail: detail() },
            408 | 429 | 500 | 502 | 503 | 504 => BlobError::Unavailable { detail: detail() },
            _ => BlobError::Failed { action: format!("{action} {blob}"), detail: detail() },
        },
        ErrorKind::Credential => BlobError::Denied { detail: detail() },
        ErrorKind::Io | ErrorKind::Connection => BlobError::Unavailable { detail: detail() },
        _ => BlobError::Failed { action: format!("{action} {blob}"), detail: detail() },
    }
}

/// An error with its causes.
fn words(error: &azure_core::Error) -> String {
    let mut text = match error.kind() {
        ErrorKind::HttpResponse { status, error_code, .. } => {
            let code = error_code.as_deref().unwrap_or("no code");
            return format!("the store answered {} ({code}){}", u16::from(*status), likely(code));
        }
        _ => error.to_string(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// What is behind a code, and what to do; of those that somebody else causes (Azure Storage documentation, "Blob service error codes").
fn likely(code: &str) -> &'static str {
    match code {
        "LeaseIdMissing"
        | "LeaseLost"
        | "LeaseIdMismatchWithBlobOperation"
        | "LeaseNotPresentWithBlobOperation" => {
            ": the lease was ended or taken by somebody else; another host has this replica, or a person broke the lease"
        }
        "LeaseAlreadyPresent" => ": another host has the lease",
        "ConditionNotMet" => {
            ": somebody else has changed it since it was read; only one host may work with a replica"
        }
        "BlobAlreadyExists" => ": there is one already",
        "Md5Mismatch" => {
            ": what arrived is not what was sent, and is not kept; something on the way changes contents (a proxy, a network adapter): look for it"
        }
        _ => "",
    }
}

/// Cuts the query out of every URL in a text: a SAS is one.
fn without_secrets(text: &str) -> String {
    let cut = |word: &str| match word.split_once('?') {
        Some((before, query)) if before.contains("://") || query.contains("sig=") => {
            let tail: String = query.chars().rev().take_while(|c| ")],;:".contains(*c)).collect();
            format!("{before}?…{}", tail.chars().rev().collect::<String>())
        }
        _ => word.to_owned(),
    };
    text.split(' ').map(cut).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::without_secrets;

    #[test]
    fn a_signature_in_a_url_is_cut_out() {
        let text = "error sending request for url (https://h/c/b?sv=1&sig=SECRET%3D): timed out";
        assert_eq!(without_secrets(text), "error sending request for url (https://h/c/b?…): timed out");
        assert_eq!(without_secrets("what? nothing"), "what? nothing");
    }
}
