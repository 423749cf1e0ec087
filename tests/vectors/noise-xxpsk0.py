#!/usr/bin/env python3
"""Makes noise-xxpsk0.json: vectors for Noise_XXpsk0_25519_ChaChaPoly_SHA256, which the snow package lacks.

Written from the Noise specification, revision 34, on top of the primitives of Python's `cryptography` package. It
shares no code with the Rust implementation. All keys are fixed, so the output is always the same:

    python3 noise-xxpsk0.py > noise-xxpsk0.json
"""

import hashlib
import hmac
import json

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

NAME = b"Noise_XXpsk0_25519_ChaChaPoly_SHA256"
PATTERN = [["psk", "e"], ["e", "ee", "s", "es"], ["s", "se"]]


def hkdf(chaining_key, material, count):
    """Noise 4.3."""
    temp = hmac.digest(chaining_key, material, "sha256")
    outputs, last = [], b""
    for index in range(1, count + 1):
        last = hmac.digest(temp, last + bytes([index]), "sha256")
        outputs.append(last)
    return outputs


def nonce(n):
    return bytes(4) + n.to_bytes(8, "little")


def public(private):
    return private.public_key().public_bytes_raw()


class Side:
    """Noise 5.2 and 5.3: a symmetric state and a handshake state in one."""

    def __init__(self, initiator, static, ephemeral, psk, prologue):
        self.initiator, self.psk = initiator, psk
        self.s = X25519PrivateKey.from_private_bytes(static)
        self.e = X25519PrivateKey.from_private_bytes(ephemeral)
        self.rs = self.re = self.k = None
        self.n = 0
        # The name is longer than a hash, so it is hashed.
        self.h = self.ck = hashlib.sha256(NAME).digest()
        self.mix_hash(prologue)

    def mix_hash(self, data):
        self.h = hashlib.sha256(self.h + data).digest()

    def mix_key(self, material):
        self.ck, self.k = hkdf(self.ck, material, 2)
        self.n = 0

    def mix_key_and_hash(self, material):
        self.ck, temp, self.k = hkdf(self.ck, material, 3)
        self.mix_hash(temp)
        self.n = 0

    def encrypt_and_hash(self, plaintext):
        ciphertext = ChaCha20Poly1305(self.k).encrypt(nonce(self.n), plaintext, self.h)
        self.n += 1
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext):
        plaintext = ChaCha20Poly1305(self.k).decrypt(nonce(self.n), ciphertext, self.h)
        self.n += 1
        self.mix_hash(ciphertext)
        return plaintext

    def dh(self, token):
        own, remote = token if self.initiator else token[::-1]
        private = {"e": self.e, "s": self.s}[own]
        theirs = {"e": self.re, "s": self.rs}[remote]
        return private.exchange(X25519PublicKey.from_public_bytes(theirs))

    def write(self, tokens, payload):
        out = b""
        for token in tokens:
            if token == "psk":
                self.mix_key_and_hash(self.psk)
            elif token == "e":
                out += public(self.e)
                self.mix_hash(public(self.e))
                self.mix_key(public(self.e))  # 9.2: in a psk handshake, e is mixed into the key as well.
            elif token == "s":
                out += self.encrypt_and_hash(public(self.s))
            else:
                self.mix_key(self.dh(token))
        return out + self.encrypt_and_hash(payload)

    def read(self, tokens, message):
        for token in tokens:
            if token == "psk":
                self.mix_key_and_hash(self.psk)
            elif token == "e":
                self.re, message = message[:32], message[32:]
                self.mix_hash(self.re)
                self.mix_key(self.re)
            elif token == "s":
                self.rs, message = self.decrypt_and_hash(message[:48]), message[48:]
            else:
                self.mix_key(self.dh(token))
        return self.decrypt_and_hash(message)


def vector(seed, payloads):
    secret = lambda label: hashlib.sha256(f"mischief test vector {seed} {label}".encode()).digest()
    prologue = b"mischief test prologue"
    psk = secret("psk")
    init = Side(True, secret("init static"), secret("init ephemeral"), psk, prologue)
    resp = Side(False, secret("resp static"), secret("resp ephemeral"), psk, prologue)
    messages = []
    for index, payload in enumerate(payloads[:3]):
        writer, reader = (init, resp) if index % 2 == 0 else (resp, init)
        ciphertext = writer.write(PATTERN[index], payload)
        assert reader.read(PATTERN[index], ciphertext) == payload
        messages.append({"payload": payload.hex(), "ciphertext": ciphertext.hex()})
    assert init.h == resp.h and init.ck == resp.ck
    keys = hkdf(init.ck, b"", 2)
    counters = [0, 0]
    for index, payload in enumerate(payloads[3:], 3):
        direction = index % 2
        ciphertext = ChaCha20Poly1305(keys[direction]).encrypt(nonce(counters[direction]), payload, b"")
        counters[direction] += 1
        messages.append({"payload": payload.hex(), "ciphertext": ciphertext.hex()})
    return {
        "protocol_name": NAME.decode(),
        "init_prologue": prologue.hex(),
        "init_psks": [psk.hex()],
        "init_static": secret("init static").hex(),
        "init_ephemeral": secret("init ephemeral").hex(),
        "resp_prologue": prologue.hex(),
        "resp_psks": [psk.hex()],
        "resp_static": secret("resp static").hex(),
        "resp_ephemeral": secret("resp ephemeral").hex(),
        "handshake_hash": init.h.hex(),
        "messages": messages,
    }


if __name__ == "__main__":
    words = [b"", b"two of three", b"three of three", b"transport one", b"", b"x" * 200]
    result = {
        "source": "noise-xxpsk0.py, an independent implementation on Python's cryptography package",
        "vectors": [vector("empty", [b""] * 5), vector("words", words)],
    }
    print(json.dumps(result, indent=1))
