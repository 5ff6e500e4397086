//! Probes by gRPC: `grpc.health.v1.Health/Check`, as the kubelet asks it (without TLS).

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::{Failure, MAX_BODY, dial};

/// `HealthCheckResponse.ServingStatus`, by number.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// Asks for the health of `service`; anything but SERVING is a failure.
pub(super) async fn check(address: SocketAddr, service: &str, asked: &HeaderMap) -> Result<(), Failure> {
    let stream = dial(address).await?;
    let mut http = http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = http.max_header_list_size(MAX_BODY as u32).handshake(TokioIo::new(stream)).await?;
    // Ends with this exchange, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request(address, service, asked)?).await?;
    let (head, mut body) = answer.into_parts();
    if head.status != StatusCode::OK {
        return Err(Failure::Status(head.status));
    }
    told(&head.headers)?;
    let mut message = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        if let Some(trailers) = frame.trailers_ref() {
            told(trailers)?;
        } else if let Some(data) = frame.data_ref() {
            if message.len() + data.len() > MAX_BODY {
                return Err(Failure::Grpc("the answer is too long".into()));
            }
            message.extend_from_slice(data);
        }
    }
    match status(&message) {
        Some(1) => Ok(()),
        Some(number) => {
            let named = usize::try_from(number).ok().and_then(|number| STATUSES.get(number));
            Err(Failure::Grpc(named.map_or_else(|| format!("status {number}"), |name| (*name).to_owned())))
        }
        None => Err(Failure::Grpc("the answer is no HealthCheckResponse".into())),
    }
}

fn request(address: SocketAddr, service: &str, asked: &HeaderMap) -> Result<Request<Full<Bytes>>, Failure> {
    let uri = format!("http://{address}/grpc.health.v1.Health/Check");
    let mut request =
        Request::post(uri).body(Full::new(message(service))).map_err(|error| Failure::Grpc(error.to_string()))?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.extend(asked.get(USER_AGENT).cloned().map(|agent| (USER_AGENT, agent)));
    Ok(request)
}

/// `HealthCheckRequest {service = 1}`, framed.
fn message(service: &str) -> Bytes {
    let mut fields = BytesMut::new();
    if !service.is_empty() {
        fields.put_u8(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            fields.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        fields.put_u8(length as u8);
        fields.put_slice(service.as_bytes());
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(fields.len() as u32);
    message.put(fields);
    message.freeze()
}

/// Fails with a `grpc-status` other than OK.
fn told(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => {
            let said = headers.get("grpc-message").map(|said| String::from_utf8_lossy(said.as_bytes()));
            let status = String::from_utf8_lossy(status.as_bytes());
            Err(Failure::Grpc(format!("grpc-status {status}: {}", said.unwrap_or_default())))
        }
        _ => Ok(()),
    }
}

/// `status = 1` of a framed `HealthCheckResponse`; absent: 0, as protobuf leaves out what is 0.
fn status(message: &[u8]) -> Option<u64> {
    let (head, mut fields) = message.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    if head[0] != 0 || fields.len() != length as usize {
        return None;
    }
    let mut status = 0;
    while !fields.is_empty() {
        let tag = varint(&mut fields)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut fields)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            1 => fields = fields.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut fields)?).ok()?;
                fields = fields.get(length..)?;
            }
            5 => fields = fields.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_a_health_check() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = message(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(long.len(), 5 + 303);
    }

    #[test]
    fn statuses_are_read_and_garbage_is_not() {
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 6, 0x12, 2, 8, 2, 8, 2]), Some(2), "unknown fields are passed over");
        for garbage in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 8, 1], &[0, 0, 0, 0, 1, 8]] {
            assert_eq!(status(garbage), None, "{garbage:?}");
        }
        assert_eq!(status(&[0, 0, 0, 0, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]), None);
        assert_eq!(status(&[0, 0, 0, 0, 3, 0x12, 255, 1]), None, "a length beyond the end");
    }
}
