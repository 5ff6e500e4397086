"""SPIFFE's own client library as a second reader of what we read and make.

agent SOCKET             prints the SPIFFE ID, and the number of roots, that the Workload API gives this process
files DIR TRUST_DOMAIN   the same of cert.pem, key.pem and bundle.pem as `remora-certs issue` writes them
"""

import sys

from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import TrustDomain, WorkloadApiClient, X509Bundle, X509Svid


def agent(socket):
    with WorkloadApiClient(f"unix://{socket}") as client:
        context = client.fetch_x509_context()
    svid = context.default_svid
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    return svid, bundle


def files(folder, trust_domain):
    svid = X509Svid.load(f"{folder}/cert.pem", f"{folder}/key.pem", Encoding.PEM)
    return svid, X509Bundle.load(TrustDomain(trust_domain), f"{folder}/bundle.pem", Encoding.PEM)


def main():
    svid, bundle = {"agent": agent, "files": files}[sys.argv[1]](*sys.argv[2:])
    public = svid.private_key.public_key().public_numbers()
    assert public == svid.leaf.public_key().public_numbers(), "the key is the leaf's"
    # Each certificate is signed by the next, and the last by a root of the bundle.
    issuers = svid.cert_chain[1:] + [
        root for root in bundle.x509_authorities if root.subject == svid.cert_chain[-1].issuer
    ][:1]
    for certificate, issuer in zip(svid.cert_chain, issuers, strict=True):
        certificate.verify_directly_issued_by(issuer)
    print(svid.spiffe_id, len(bundle.x509_authorities))


main()
