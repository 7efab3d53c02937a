//! How the ACME library reaches its server: over the server's own small client. Look here for what bounds an answer.

use std::pin::Pin;

use anyhow::bail;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::limits::{ACME_ANSWER_BYTES_MAX, ACME_ANSWER_TIMEOUT};
use crate::outbound;
use crate::settings::HttpUrl;

/// Trusts whom the system trusts, or the environment variable `SSL_CERT_FILE` names.
pub(super) struct Client;

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(async { exchange(request).await.map_err(|error| Error::Other(error.into())) })
    }
}

async fn exchange(request: Request<BodyWrapper<Bytes>>) -> anyhow::Result<BytesResponse> {
    let (mut parts, body) = request.into_parts();
    let url: HttpUrl = parts.uri.to_string().parse().map_err(anyhow::Error::msg)?;
    if !url.is_tls() {
        bail!("{url}: an ACME server must be spoken to over https://");
    }
    parts.uri = url.target("").parse()?;
    parts.headers.insert(HOST, HeaderValue::from_str(url.authority())?);
    let body = Full::new(body.collect().await?.to_bytes());
    let request = Request::from_parts(parts, body);
    let answer = outbound::send(&url, request, ACME_ANSWER_TIMEOUT, ACME_ANSWER_BYTES_MAX).await?;
    if !answer.status.is_success() && !answer.is_json() {
        bail!("{url} answers {}, and says no more", answer.status);
    }
    let mut response = Response::new(Full::new(answer.body));
    (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
    Ok(response.into())
}
