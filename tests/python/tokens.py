"""Makes tokens as an OIDC issuer would, and as an attacker would, by pyjwt. `tokens.py FOLDER` writes FOLDER/jwks.json and
prints a JSON object of tokens by name."""

import base64
import json
import sys
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://issuer.example", "remora-ca"


def public(algorithm, key, kid, alg):
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig", **({"alg": alg} if alg else {})}


def encode(data):
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def main():
    folder, now = sys.argv[1], int(time.time())
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ec_key = ec.generate_private_key(ec.SECP256R1())
    ed_key = ed25519.Ed25519PrivateKey.generate()
    other = ec.generate_private_key(ec.SECP256R1())
    keys = [public(RSAAlgorithm, rsa_key, "rsa", None), public(ECAlgorithm, ec_key, "ec", "ES256"),
            public(OKPAlgorithm, ed_key, "ed", "EdDSA")]
    with open(f"{folder}/jwks.json", "w") as file:
        json.dump({"keys": keys}, file)
    claims = {"iss": ISSUER, "aud": ["other", AUDIENCE], "sub": "system:serviceaccount:shop:cart", "iat": now,
              "nbf": now - 5, "exp": now + 3600}

    def make(key=ec_key, alg="ES256", kid="ec", without=None, headers=None, **changed):
        payload = {**claims, **changed}
        payload.pop(without, None)
        return jwt.encode(payload, key, algorithm=alg, headers={"kid": kid, **(headers or {})})

    pem = rsa_key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signing_input = encode({"alg": "HS256", "typ": "JWT", "kid": "rsa"}) + "." + encode(claims)
    hmac = jwt.get_algorithm_by_name("HS256")
    confusion = base64.urlsafe_b64encode(hmac.sign(signing_input.encode(), pem)).rstrip(b"=").decode()
    good = make()
    head, body, signature = good.split(".")
    print(json.dumps({
        "es256": good,
        "rs256": make(rsa_key, "RS256", "rsa"),
        "ps256": make(rsa_key, "PS256", "rsa"),
        "eddsa": make(ed_key, "EdDSA", "ed"),
        "kubernetes": make(sub="x", **{"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "pay"}}}),
        "within_leeway": make(exp=now - 5),
        "expired": make(exp=now - 120),
        "no_exp": make(without="exp"),
        "not_yet": make(nbf=now + 600),
        "wrong_audience": make(aud="somebody-else"),
        "no_audience": make(without="aud"),
        "wrong_issuer": make(iss="https://evil.example"),
        "none": encode({"alg": "none", "typ": "JWT"}) + "." + encode(claims) + ".",
        "none_with_kid": encode({"alg": "none", "kid": "ec"}) + "." + encode(claims) + ".",
        "hs256_confusion": signing_input + "." + confusion,
        "rs384": make(rsa_key, "RS384", "rsa"),
        "unknown_kid": make(kid="nobody"),
        "no_kid": jwt.encode(claims, ec_key, algorithm="ES256"),
        "other_key": make(other),
        "other_keys_kid": make(kid="rsa"),
        "tampered": head + "." + encode({**claims, "sub": "system:serviceaccount:shop:admin"}) + "." + signature,
        "crit": make(headers={"crit": ["exp2"], "exp2": 1}),
        "no_account": make(sub="alice"),
        "slash": make(sub="system:serviceaccount:shop/sa/admin/x:y"),
        "traversal": make(sub="system:serviceaccount:shop:../../admin"),
    }))


main()
