use super::*;

#[test]
fn flags_are_indexed_by_their_discriminant() {
    for (index, flag) in ResponseFlag::ALL.iter().enumerate() {
        assert_eq!(*flag as usize, index);
    }
}

#[test]
fn a_timeout_is_504_and_deadline_exceeded() {
    let error = Error::RequestTimeout { cluster: "a".into(), timeout: Duration::from_secs(1) };
    assert_eq!(error.response(), Response { status: StatusCode::GATEWAY_TIMEOUT, grpc_status: 4 });
    assert_eq!((error.side(), error.retryable()), (Side::Upstream, false));
}

#[test]
fn what_is_of_no_endpoint_has_no_other_asked() {
    let (cluster, timeout) = (|| "a".into(), Duration::from_secs(1));
    assert!(Error::NoFile(timeout).is_of_no_endpoint());
    assert!(Error::RequestTimeout { cluster: cluster(), timeout }.is_of_no_endpoint());
    let endpoint = ([127, 0, 0, 1], 1).into();
    assert!(!Error::ConnectTimeout { cluster: cluster(), endpoint, timeout }.is_of_no_endpoint());
}

#[test]
fn only_unprocessed_requests_are_tried_again() {
    let reset = |code| Error::UpstreamReset { cluster: "a".into(), endpoint: ([127, 0, 0, 1], 1).into(), code };
    assert!(reset(h2::Reason::REFUSED_STREAM).retryable());
    assert!(!reset(h2::Reason::INTERNAL_ERROR).retryable());
    assert!(!reset(h2::Reason::REFUSED_STREAM).undelivered(), "it was delivered, and refused");
}
