//! What nodes call (docs/API.md): enrolment, the stream, bundles.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::{DefaultBodyLimit, Request as Asked, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, post},
};
use bytes::Bytes;
use coterie_api::{
    node::{Explanation, Failure},
    v1::{self, Endpoint, Scope},
};
use coterie_control::{
    bundle::Request,
    enrol::{REFUSED, open, token_of},
    follow::message,
};
use coterie_model::{MemberId, Name};
use coterie_store::{TokenId, TokenRefusal};
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use tokio::sync::mpsc;

use crate::{
    clock,
    keeper::{self, Act, Applicant, Deed, Entrance, Follow, Outcome},
    listener::Node,
    people::Json,
    refusal::Refusal,
    registry::Server,
};

/// How an endpoint is served.
type Serve = fn() -> MethodRouter<Arc<Server>>;

/// Every endpoint of nodes, with what serves it.
const ROUTES: &[(&str, Serve)] = &[
    ("/v1/enrol", || post(enrol)),
    ("/v1/node/follow", || post(follow)),
    ("/v1/node/bundle", || post(bundle)),
    ("/v1/node/ack", || post(ack)),
    ("/v1/node/resolve", || post(resolve)),
    ("/v1/node/explained", || post(explained)),
    ("/v1/node/ready", || post(ready)),
    ("/v1/node/revocations", || {
        post(revocations).layer(DefaultBodyLimit::max(v1::MAX_REVOCATIONS))
    }),
    ("/v1/node/bye", || post(bye)),
];

/// The routes of nodes. What [`v1::ENDPOINTS`] does not name is not served.
pub(crate) fn router(server: Arc<Server>) -> Router {
    let mut router = Router::new();
    for (path, serve) in ROUTES {
        let Some(endpoint) = of_nodes().find(|endpoint| endpoint.path == *path) else {
            continue;
        };
        let serve = match endpoint.scope {
            Scope::Visitor => serve(),
            Scope::Operator | Scope::Own | Scope::Tenant | Scope::Member => {
                serve().route_layer(middleware::from_fn(certified))
            }
        };
        router = router.route(path, serve);
    }
    router
        .fallback(|| async { Refusal::NoEndpoint })
        .layer(DefaultBodyLimit::max(v1::MAX_APPLICATION))
        .with_state(server)
}

/// What nodes call.
pub(crate) fn of_nodes() -> impl Iterator<Item = &'static Endpoint> {
    v1::ENDPOINTS.iter().filter(|endpoint| match endpoint.scope {
        Scope::Visitor | Scope::Member => true,
        Scope::Operator | Scope::Own | Scope::Tenant => false,
    })
}

type Answer = Result<Response, Refusal>;

/// Of who shows no certificate nothing is read where there is something for members alone.
async fn certified(Extension(node): Extension<Node>, asked: Asked, next: Next) -> Response {
    match node.certified {
        Some(_) => next.run(asked).await,
        None => Refusal::NotAMember.into_response(),
    }
}

/// An application, directly or by a door. Whatever happens, it is answered with 200: why somebody was refused is for the
/// administrator.
async fn enrol(
    State(server): State<Arc<Server>>,
    Extension(node): Extension<Node>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let bytes = match enrolled(&server, &node, &headers, &body).await {
        Ok(reply) => reply,
        Err(refusal) => {
            tracing::info!(enclave = %node.keeper.name, from = %node.address, "no enrolment: {refusal}");
            REFUSED.to_vec()
        }
    };
    ([(CONTENT_TYPE, v1::BYTES_TYPE)], bytes).into_response()
}

async fn enrolled(server: &Server, node: &Node, headers: &HeaderMap, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let door = match &node.certified {
        Some(_) => Some(member(node).await?.0),
        None => None,
    };
    let (source, door) = source(node, door, headers).await?;
    let token = token_of(body).map(TokenId);
    let judged = match token {
        Ok(token) => {
            let door = door.clone();
            judged(server, node, &Entrance { source, door, token }, body).await
        }
        Err(error) => Err(Refusal::BadRequest(error.to_string())),
    };
    match judged {
        Ok(Outcome::Reply(reply)) => Ok(reply),
        Ok(_) => Err(Refusal::Gone),
        Err(refusal) => {
            server.metrics.enrolment_refused();
            let deed = Deed {
                actor: "visitor".to_owned(),
                act: Act::RefuseEntrance {
                    source,
                    door,
                    token: token.ok(),
                    reason: refusal.to_string(),
                },
            };
            // Of a flood of refusals the log tells as many as the server can write down; those of strangers, who hold no token,
            // take no room from the others.
            if server.metrics.may_note_refusal(refusal.is_of_a_stranger()) {
                node.keeper.act(deed).await?;
            }
            Err(refusal)
        }
    }
}

async fn judged(server: &Server, node: &Node, entrance: &Entrance, body: &[u8]) -> Result<Outcome, Refusal> {
    let presented = server.store.read().await?.presented_token(entrance.token).await?;
    let presented = presented.ok_or(Refusal::Token(TokenRefusal::Unknown))?;
    if presented.token.enclave != node.keeper.enclave {
        return Err(Refusal::ForeignToken);
    }
    let digest = keeper::digest(body);
    let given = node
        .keeper
        .look(move |state| state.reply_to(&digest, clock::now()))
        .await?;
    if let Some(reply) = given {
        return Ok(Outcome::Reply(reply));
    }
    let opened = open(body, &presented.secret, &node.keeper.server_key);
    let opened = opened.map_err(|error| Refusal::BadRequest(error.to_string()))?;
    let deed = Deed {
        actor: format!("token {}", entrance.token),
        act: Act::Enrol(Box::new(Applicant {
            opened,
            entrance: entrance.clone(),
            digest,
            presence: Arc::clone(&node.keeper.presence),
        })),
    };
    node.keeper.act(deed).await
}

/// Where an application came from, and the door that says so of its visitor: nobody else is believed.
async fn source(node: &Node, door: Option<Name>, headers: &HeaderMap) -> Result<(SocketAddr, Option<Name>), Refusal> {
    let told = headers.get(v1::SOURCE_HEADER).and_then(|value| value.to_str().ok());
    let told: Option<SocketAddr> = told.and_then(|text| text.parse().ok());
    if let (Some(name), Some(source)) = (door, told) {
        let asked = name.clone();
        if node
            .keeper
            .look(move |state| state.is_door(&asked) && !state.enclave.is_isolated(&asked))
            .await?
        {
            return Ok((SocketAddr::new(source.ip().to_canonical(), source.port()), Some(name)));
        }
    }
    Ok((node.address, None))
}

/// The member that calls, and its enrolment: by the key of the certificate that it shows.
async fn member(node: &Node) -> Result<(Name, MemberId), Refusal> {
    let (name, key) = node.certified.clone().ok_or(Refusal::NotAMember)?;
    let asked = name.clone();
    let member = node
        .keeper
        .look(move |state| {
            let is_its_own = state.enclave.identity_key(&asked) == Some(&key);
            state.enclave.member_id(&asked).filter(|_| is_its_own)
        })
        .await?;
    Ok((name, member.ok_or(Refusal::NotAMember)?))
}

async fn follow(
    State(server): State<Arc<Server>>,
    Extension(node): Extension<Node>,
    Json(asked): Json<v1::Follow>,
) -> Answer {
    let (name, member) = member(&node).await?;
    let follow = Follow {
        name: name.clone(),
        member,
        mark: asked.mark,
        serial: asked.serial,
    };
    let place = node.keeper.presence.place(&name).ok_or(Refusal::TooMany)?;
    let known = node
        .keeper
        .look(|state| state.enclave.revocations().map_or(0, |list| list.revision))
        .await?;
    if asked.revocations > known {
        // An old backup was restored: what was refused since is not known here any more.
        tracing::warn!(
            enclave = %node.keeper.name, member = %name, theirs = asked.revocations, ours = known,
            "a node knows newer revocations than this server: an older state was put in the place of the newest; `coterie-server \
             restore` is the way, after which nodes show whom to refuse again"
        );
        server.metrics.rollback_noticed();
    }
    let seat = node.keeper.seat(follow).await?;
    let (say, asks) = mpsc::channel(keeper::UNREAD);
    let (out, words) = mpsc::channel(keeper::UNREAD);
    let channels = (say, asks, out);
    tokio::spawn(keeper::stream(
        node.keeper,
        name,
        seat,
        channels,
        server.stopping.clone(),
    ));
    let body = Body::new(Words(words, place));
    Ok(([(CONTENT_TYPE, v1::BYTES_TYPE)], body).into_response())
}

/// The body of a stream.
struct Words(
    mpsc::Receiver<Bytes>,
    #[expect(dead_code, reason = "counts as long as it lives")] keeper::Place,
);

impl hyper::body::Body for Words {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: core::pin::Pin<&mut Self>,
        cx: &mut core::task::Context<'_>,
    ) -> core::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(cx)
            .map(|words| words.map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}

async fn bundle(Extension(node): Extension<Node>, body: Bytes) -> Answer {
    let (name, _) = member(&node).await?;
    let request = Request::parse(&body).map_err(|error| Refusal::BadRequest(error.to_string()))?;
    if *request.name() != name {
        return Err(Refusal::NotAMember);
    }
    let deed = Deed {
        actor: format!("node {name}"),
        act: Act::Renew(Box::new(request)),
    };
    let Outcome::Bundle(text) = node.keeper.act(deed).await? else {
        return Err(Refusal::Gone);
    };
    Ok(text.into_response())
}

async fn ack(Extension(node): Extension<Node>, Json(ack): Json<v1::Ack>) -> Answer {
    let (name, member) = member(&node).await?;
    node.keeper.presence.acknowledge((&name, member), ack.mark);
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn resolve(Extension(node): Extension<Node>, Json(asked): Json<v1::Resolve>) -> Answer {
    let (name, member) = member(&node).await?;
    let now = clock::now();
    let words = node
        .keeper
        .look(move |state| {
            let enclave = &state.enclave;
            let is_in = enclave.member_id(&name) == Some(member) && !enclave.is_isolated(&name);
            let own = enclave.seat(&name).filter(|_| is_in)?;
            let other = match asked {
                v1::Resolve::Name(other) => other,
                v1::Resolve::Address(address) => enclave.owner(address)?.clone(),
            };
            let mut words = Vec::new();
            for community in &own.communities {
                if let (Some(tag), Some(entry)) = (enclave.tag(community), enclave.entry(&other, community, now)) {
                    words.extend(message::change(tag, &[entry], &[]));
                }
            }
            (!words.is_empty()).then(|| words.concat())
        })
        .await?;
    let words = words.ok_or(Refusal::NotFound("member"))?;
    Ok(([(CONTENT_TYPE, v1::BYTES_TYPE)], words).into_response())
}

async fn explained(Extension(node): Extension<Node>, Json(told): Json<v1::NodeExplained>) -> Answer {
    let (name, _) = member(&node).await?;
    let installed = match (told.explanation, told.failure) {
        (Some(explanation), _) => Ok(as_plain(explanation)),
        (None, Some(failure)) => Err(Failure {
            code: plain(&failure.code, 64),
            message: plain(&failure.message, 512),
            remedy: plain(&failure.remedy, 512),
        }),
        (None, None) => Err(keeper::unanswered(format!("`{name}` says nothing"))),
    };
    node.keeper.presence.answer(&name, told.id, installed);
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn ready(Extension(node): Extension<Node>, Json(ready): Json<v1::Ready>) -> Answer {
    let (name, member) = member(&node).await?;
    node.keeper
        .presence
        .note_version((&name, member), plain(&ready.version, 64));
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What a node says, as people may see it: so long, and nothing that moves their cursor.
fn plain(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// An explanation whose words are plain.
fn as_plain(mut told: Explanation) -> Explanation {
    told.refused = told.refused.map(|reason| plain(&reason, 512));
    for candidate in &mut told.candidates {
        candidate.verdict = plain(&candidate.verdict, 512);
    }
    told
}

/// The node was given a list that this server, which went on from a backup, may not know any more.
async fn revocations(Extension(node): Extension<Node>, body: Bytes) -> Answer {
    let (name, _) = member(&node).await?;
    let deed = Deed {
        actor: format!("node {name}"),
        act: Act::TakeBack(body.to_vec()),
    };
    node.keeper.act(deed).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The machine stops for good.
async fn bye(Extension(node): Extension<Node>) -> Answer {
    let (name, member) = member(&node).await?;
    let deed = Deed {
        actor: format!("node {name}"),
        act: Act::Leave(name, member),
    };
    node.keeper.act(deed).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_of_nodes_is_served_and_nothing_else_is() {
        let served: Vec<_> = ROUTES.iter().map(|(path, _)| *path).collect();
        let named: Vec<_> = of_nodes().map(|endpoint| endpoint.path).collect();
        assert_eq!(served, named, "in the order of the table");
        assert!(of_nodes().all(|endpoint| endpoint.method == v1::Method::Post));
    }
}
