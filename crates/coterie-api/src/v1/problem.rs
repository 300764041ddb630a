//! What the server answers when it does not do what it was asked for (RFC 9457).

use core::fmt;

use serde::{Deserialize, Serialize};

/// An error, as `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: [`Self::code`] says which problem it is.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: String,
    /// A few words that are the same for each problem of this code.
    pub title: String,
    /// The HTTP status, repeated.
    pub status: u16,
    /// What happened, here and now.
    pub detail: String,
    /// A word that programs can compare: one of [`code`].
    pub code: String,
    /// What to do about it.
    pub remedy: String,
    /// What is wrong with the enclave file, where [`Self::code`] is [`code::BAD_FILE`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FileFault>,
}

/// One fault of an enclave file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFault {
    /// `error`, for which the file is refused, or `warning`.
    pub severity: String,
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
    /// The key concerned, as `member.web-1.addresses[0]`; empty where it is the whole file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Further reasons, each of one or several lines.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Words of [`Problem::code`]; more may come.
pub mod code {
    /// 400: the request is not what the endpoint reads.
    pub const BAD_REQUEST: &str = "bad-request";
    /// 401: no key, or one that nobody has.
    pub const UNAUTHENTICATED: &str = "unauthenticated";
    /// 401: the key expired or was revoked.
    pub const KEY_ENDED: &str = "key-ended";
    /// 403: the principal's role, or what it belongs to, does not do this.
    pub const FORBIDDEN: &str = "forbidden";
    /// 403: the member is isolated.
    pub const ISOLATED: &str = "isolated";
    /// 403: whoever shows this certificate is no member, or no longer.
    pub const NOT_A_MEMBER: &str = "not-a-member";
    /// 404: there is no such object, or it is another tenant's.
    pub const NOT_FOUND: &str = "not-found";
    /// 404: no such endpoint.
    pub const NO_ENDPOINT: &str = "no-endpoint";
    /// 405: the endpoint has other methods.
    pub const METHOD: &str = "method-not-allowed";
    /// 409: the name, or the key, is taken.
    pub const EXISTS: &str = "exists";
    /// 409: the object is not in a state in which this can be done, such as a member that is not enrolled.
    pub const CONFLICT: &str = "conflict";
    /// 412: somebody else changed it in between (`If-Match`).
    pub const CHANGED: &str = "changed";
    /// 413: the body is longer than the endpoint reads.
    pub const TOO_LARGE: &str = "too-large";
    /// 422: the enclave file is not accepted; the problem's `faults` say where.
    pub const BAD_FILE: &str = "bad-file";
    /// 422: the file is of another enclave than the path says.
    pub const OTHER_ENCLAVE: &str = "other-enclave";
    /// 429: more than the server does at once.
    pub const TOO_MANY: &str = "too-many";
    /// 500: a fault of the server; its log says which.
    pub const INTERNAL: &str = "internal";
    /// 503: the database takes no writes: the disk is full, or read-only.
    pub const READ_ONLY: &str = "read-only";
    /// 503: the server is starting or stopping.
    pub const UNAVAILABLE: &str = "unavailable";
}

fn about_blank() -> String {
    "about:blank".to_owned()
}

impl Problem {
    /// A problem.
    #[must_use]
    pub fn new(
        status: u16,
        code: &str,
        title: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            kind: about_blank(),
            title: title.into(),
            status,
            detail: detail.into(),
            code: code.to_owned(),
            remedy: remedy.into(),
            faults: Vec::new(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.detail.is_empty() {
            &self.title
        } else {
            &self.detail
        };
        if self.remedy.is_empty() {
            return f.write_str(what);
        }
        write!(f, "{what}; {}", self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_fields_of_the_standard_and_ours() {
        let problem = Problem::new(404, code::NOT_FOUND, "not found", "there is no enclave x", "list them");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "about:blank", "title": "not found", "status": 404, "detail": "there is no enclave x",
                "code": "not-found", "remedy": "list them",
            })
        );
        assert_eq!(problem.to_string(), "there is no enclave x; list them");
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }
}
