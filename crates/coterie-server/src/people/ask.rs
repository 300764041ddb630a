//! What is asked: the objects that a path names, queries and bodies.

use std::future::Future;
use std::sync::Arc;

use axum::{
    RequestPartsExt as _,
    body::{Body, to_bytes},
    extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request},
};
use bytes::Bytes;
use coterie_api::v1;
use coterie_model::Name;
use coterie_store::TenantId;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::{answer::Denial, caller::Caller};
use crate::{
    hex,
    keeper::{Act, Deed, Keeper, Outcome},
    listener::Node,
    refusal::Refusal,
    registry::Server,
};

/// A request that its gate let in.
pub(super) struct Call {
    /// The server.
    pub(super) server: Arc<Server>,
    /// Who calls.
    pub(super) caller: Caller,
    /// What the path names, by the names in braces.
    objects: Vec<(String, String)>,
}

impl FromRequestParts<Arc<Server>> for Call {
    type Rejection = Denial;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Denial> {
        let caller = parts.extensions.get::<Caller>().ok_or(Refusal::Unauthorized)?.clone();
        // A path that is no text names nothing.
        let objects = parts.extract::<RawPathParams>().await;
        let objects = objects.map_err(|_no_text| Refusal::NotFound("object"))?;
        Ok(Self {
            server: Arc::clone(server),
            caller,
            objects: objects
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        })
    }
}

impl Call {
    /// The tenant whose objects these are.
    pub(super) fn tenant(&self) -> Result<TenantId, Refusal> {
        self.caller.tenant().ok_or(Refusal::NotFound("enclave"))
    }

    /// The enclave that the path names, if the caller's tenant has it.
    pub(super) async fn keeper(&self) -> Result<Keeper, Refusal> {
        let name = self.name("e", "enclave")?;
        let keeper = self.server.keeper(self.tenant()?, &name).await;
        keeper.ok_or(Refusal::NotFound("enclave"))
    }

    /// A name in the path: what is none is nobody's.
    pub(super) fn name(&self, key: &str, what: &'static str) -> Result<Name, Refusal> {
        let name = self.object(key).and_then(|text| Name::new(text).ok());
        name.ok_or(Refusal::NotFound(what))
    }

    /// An id in the path, 32 lower-case hexadecimal digits.
    pub(super) fn id(&self, key: &str, what: &'static str) -> Result<[u8; 16], Refusal> {
        self.object(key).and_then(hex::id).ok_or(Refusal::NotFound(what))
    }

    fn object(&self, key: &str) -> Option<&str> {
        let found = self.objects.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }

    /// Has an enclave's keeper do something in the caller's name.
    pub(super) async fn act(&self, keeper: &Keeper, act: Act) -> Result<Outcome, Refusal> {
        let actor = self.caller.name().to_owned();
        keeper.act(Deed { actor, act }).await
    }
}

/// A query, read strictly.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Server>> for Asked<T> {
    type Rejection = Denial;

    fn from_request_parts(
        parts: &mut Parts,
        _server: &Arc<Server>,
    ) -> impl Future<Output = Result<Self, Denial>> + Send {
        let query = Query::try_from_uri(&parts.uri).map(|Query(query)| Self(query));
        let query = query.map_err(|error| Refusal::BadRequest(format!("the query: {}", error.body_text())).into());
        core::future::ready(query)
    }
}

/// A body of JSON, read strictly.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Server>> for Json<T> {
    type Rejection = Denial;

    async fn from_request(request: Request, _server: &Arc<Server>) -> Result<Self, Denial> {
        // Nodes have little to say, and there are many.
        let limit = match request.extensions().get::<Node>() {
            Some(_) => v1::MAX_APPLICATION,
            None => v1::MAX_BODY,
        };
        let body = read(request.into_body(), limit).await?;
        let value = serde_json::from_slice(&body);
        let value = value.map_err(|error| Refusal::BadRequest(format!("the body: {error}")))?;
        Ok(Self(value))
    }
}

/// A whole body of at most `limit` bytes.
pub(super) async fn read(body: Body, limit: usize) -> Result<Bytes, Refusal> {
    to_bytes(body, limit).await.map_err(|error| {
        let source = core::error::Error::source(&error);
        match source.is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>()) {
            true => Refusal::TooLarge(limit),
            false => Refusal::BadRequest(format!("the body broke off: {error}")),
        }
    })
}
