//! Calls to the server, one after the other.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use coterie_api::remote::{self, Connection, RemoteError, Tls, Trust};
use coterie_api::v1::{EnclaveSummary, List, SecretText};
use coterie_model::Name;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime::Runtime;

use super::profile::{Address, Profile};

/// Longest answer that is read: a page of members is some hundred bytes each.
const MAX_ANSWER: usize = 256 << 20;

/// A connection to the server, with the principal's key.
#[derive(Debug)]
pub(crate) struct Remote {
    runtime: Runtime,
    connection: Connection,
    authorization: HeaderValue,
}

/// What a request carries.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Remote {
    /// Connects as the environment or the last login says.
    pub(crate) fn connect() -> anyhow::Result<Self> {
        let profile = Profile::current()?;
        let trust = Trust::from_pem(profile.ca.as_bytes())?;
        Self::open(&profile.server, trust, &profile.key)
    }

    /// Connects to a server that is trusted so, with a key.
    pub(crate) fn open(server: &Address, trust: Trust, key: &SecretText) -> anyhow::Result<Self> {
        let tls = Tls::new(trust, None, false)?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
            .context("the key has characters that no key has")?;
        authorization.set_sensitive(true);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot prepare for network traffic")?;
        let connection = runtime.block_on(async {
            let stream = remote::dial(&server.host, server.port).await?;
            Connection::open(stream, &server.host, &tls).await
        })?;
        Ok(Self {
            runtime,
            connection,
            authorization,
        })
    }

    /// All enclaves of the tenant.
    pub(crate) fn enclaves(&self) -> anyhow::Result<Vec<EnclaveSummary>> {
        self.list("/v1/enclaves")
    }

    /// Reads an object.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, Carried::default())
    }

    /// Reads a list.
    pub(crate) fn list<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Vec<T>> {
        self.get(path).map(|list: List<T>| list.items)
    }

    /// Has something done that needs no words.
    pub(crate) fn post_empty<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::POST, path, Carried::default())
    }

    /// Has something done.
    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> anyhow::Result<T> {
        let json = HeaderValue::from_static("application/json");
        let carried = Carried {
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, json)]),
            body: serde_json::to_vec(request)?.into(),
        };
        self.call(Method::POST, path, carried)
    }

    /// Has something ended, of which nothing is to be told.
    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.exchange(Method::DELETE, path, Carried::default()).map(drop)
    }

    /// Sends a request and reads the JSON of the answer.
    pub(crate) fn call<T: DeserializeOwned>(&self, method: Method, path: &str, carried: Carried) -> anyhow::Result<T> {
        Ok(self.exchange(method, path, carried)?.json()?)
    }

    /// Sends a text and reads the text of the answer.
    pub(crate) fn post_text(&self, path: &str, text: String) -> anyhow::Result<String> {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        let carried = Carried {
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, plain)]),
            body: text.into(),
        };
        let response = self.exchange(Method::POST, path, carried)?;
        String::from_utf8(response.body.to_vec()).context("the server's answer is no text")
    }

    /// Reads a text.
    pub(crate) fn get_text(&self, path: &str) -> anyhow::Result<String> {
        let response = self.exchange(Method::GET, path, Carried::default())?;
        String::from_utf8(response.body.to_vec()).context("the server's answer is no text")
    }

    /// Waits.
    pub(crate) fn pause(&self, time: Duration) {
        self.runtime.block_on(tokio::time::sleep(time));
    }

    fn exchange(&self, method: Method, path: &str, carried: Carried) -> anyhow::Result<remote::Response> {
        let mut headers = carried.headers;
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        let agent = HeaderValue::from_static(concat!("coterie/", env!("CARGO_PKG_VERSION")));
        headers.insert(header::USER_AGENT, agent);
        let request = self.connection.request(method, path, headers, carried.body, MAX_ANSWER);
        Ok(self.run(request)?.accepted()?)
    }

    fn run<T>(&self, future: impl Future<Output = Result<T, RemoteError>>) -> Result<T, RemoteError> {
        self.runtime.block_on(future)
    }
}

/// The path of an enclave, with what follows.
pub(crate) fn enclave_path(enclave: &Name, rest: &str) -> String {
    format!("/v1/enclaves/{enclave}{rest}")
}

/// A header that makes a change depend on nobody else's having come first.
pub(crate) fn condition(name: HeaderName, value: &str) -> anyhow::Result<HeaderMap> {
    Ok(HeaderMap::from_iter([(name, HeaderValue::from_str(value)?)]))
}
