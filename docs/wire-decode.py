#!/usr/bin/env python3
"""Decodes recorded connections of the wire format in wire.md and checks them against what was meant to be said.

    python3 docs/wire-decode.py tests/vectors/wire.json      checks; one line for each vector
    python3 docs/wire-decode.py --show tests/vectors/wire.json   prints every unit and record as well

`-` in place of a file reads from standard input. It needs Python 3.8 or later and the package `cryptography` of version
40 or later, and shares no code with the Rust implementation. From the
secrets of both sides in the file it plays the handshake, verifies both identities, opens every frame and puts the
records together again.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import struct
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PREFACE_BYTES = 44
KINDS = ["json", "text", "bytes"]
CLASSES = {0x10: "application", 0x20: "gossip"}
REQUESTS_CHANNEL = 1
SHOW = False


def show(*words):
    if SHOW:
        print("   ", *words)


def check(condition, why):
    if not condition:
        raise AssertionError(why)


class Reader:
    """Takes bytes off the front."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        check(self.at + count <= len(self.data), "the bytes end early")
        taken = self.data[self.at : self.at + count]
        self.at += count
        return taken

    def number(self, width):
        return int.from_bytes(self.take(width), "big")

    def rest(self):
        return self.take(len(self.data) - self.at)

    def is_empty(self):
        return self.at == len(self.data)


def unpack(reader):
    """One MessagePack value."""
    tag = reader.number(1)
    if tag < 0x80:
        return tag
    if tag < 0x90:
        return {unpack(reader): unpack(reader) for _ in range(tag & 15)}
    if tag < 0xA0:
        return [unpack(reader) for _ in range(tag & 15)]
    if tag < 0xC0:
        return reader.take(tag & 31).decode()
    if tag >= 0xE0:
        return tag - 256
    if tag in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[tag]
    if 0xC4 <= tag <= 0xC6:
        return reader.take(reader.number(1 << (tag - 0xC4)))
    if 0xCC <= tag <= 0xCF:
        return reader.number(1 << (tag - 0xCC))
    if 0xD9 <= tag <= 0xDB:
        return reader.take(reader.number(1 << (tag - 0xD9))).decode()
    if tag in (0xDC, 0xDD):
        return [unpack(reader) for _ in range(reader.number(2 << (tag - 0xDC)))]
    if tag in (0xDE, 0xDF):
        return {unpack(reader): unpack(reader) for _ in range(reader.number(2 << (tag - 0xDE)))}
    raise AssertionError(f"MessagePack tag {tag:#x}")


def shown_body(body):
    """A body as the vectors give it: in hex, or a long one by its length and SHA-256."""
    if len(body) <= 64:
        return body.hex()
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def noise_hkdf(chaining_key, material, count):
    """Noise 4.3."""
    temp = hmac.digest(chaining_key, material, "sha256")
    outputs, last = [], b""
    for index in range(1, count + 1):
        last = hmac.digest(temp, last + bytes([index]), "sha256")
        outputs.append(last)
    return outputs


class Noise:
    """XX or XXpsk0 as an onlooker sees it who knows the secrets of both sides."""

    def __init__(self, psk, prologue, dialler, responder):
        name = b"Noise_XXpsk0_25519_ChaChaPoly_SHA256" if psk else b"Noise_XX_25519_ChaChaPoly_SHA256"
        # A name of up to 32 bytes is padded with zeros, a longer one hashed.
        self.h = hashlib.sha256(name).digest() if len(name) > 32 else name.ljust(32, b"\0")
        self.ck, self.k, self.n, self.psk = self.h, None, 0, psk
        self.mix_hash(prologue)
        self.secrets = {"dialler": dialler, "responder": responder}
        self.public = {"dialler": {}, "responder": {}}

    def mix_hash(self, data):
        self.h = hashlib.sha256(self.h + data).digest()

    def mix_key(self, material):
        self.ck, self.k = noise_hkdf(self.ck, material, 2)
        self.n = 0

    def decrypt(self, data):
        if self.k is None:
            plaintext = data
        else:
            nonce = bytes(4) + struct.pack("<Q", self.n)
            plaintext = ChaCha20Poly1305(self.k).decrypt(nonce, data, self.h)
            self.n += 1
        self.mix_hash(data)
        return plaintext

    def dh(self, token):
        """Both ways, which have to agree."""
        first, second = token
        one = self.secrets["dialler"][first].exchange(
            X25519PublicKey.from_public_bytes(self.public["responder"][second])
        )
        other = self.secrets["responder"][second].exchange(
            X25519PublicKey.from_public_bytes(self.public["dialler"][first])
        )
        check(one == other, "both sides compute the same Diffie-Hellman")
        self.mix_key(one)

    def read(self, sender, tokens, message):
        reader = Reader(message)
        for token in tokens:
            if token == "psk":
                if self.psk:
                    self.ck, temp, self.k = noise_hkdf(self.ck, self.psk, 3)
                    self.mix_hash(temp)
                    self.n = 0
            elif token == "e":
                e = reader.take(32)
                self.public[sender]["e"] = e
                self.mix_hash(e)
                if self.psk:
                    self.mix_key(e)
            elif token == "s":
                self.public[sender]["s"] = self.decrypt(reader.take(48))
            else:
                self.dh(token)
        return self.decrypt(reader.rest())

    def split(self):
        return noise_hkdf(self.ck, b"", 2)


def public_bytes(private):
    return private.public_key().public_bytes_raw()


def protocol_hash(protocol):
    data = b"mischief protocol"
    for text in protocol:
        data += bytes([len(text.encode())]) + text.encode()
    return hashlib.sha256(data).digest()


def read_preface(reader):
    preface = reader.take(PREFACE_BYTES)
    check(preface[:8] == b"mischief", "magic")
    check(preface[8] <= preface[9], "lowest and highest version")
    show(f"preface: wire versions {preface[8]}-{preface[9]}, protocol {preface[12:].hex()}")
    return preface


def read_handshake_message(reader):
    """A message, or a code if it is a Reject."""
    length = reader.number(2)
    if length:
        return reader.take(length), None
    code = reader.number(1)
    show(f"Reject {code}")
    check(reader.is_empty(), "nothing follows a Reject")
    return None, code


def read_hello(payload, sender, signed_hash, noise, preface, peer_id):
    check(len(payload) <= 4096, "a hello has at most 4 KiB")
    hello = unpack(Reader(payload))
    show(f"hello of the {sender}: { {key: value.hex() if isinstance(value, bytes) else value for key, value in hello.items()} }")
    role = {"dialler": b"\x01", "responder": b"\x02"}[sender]
    domain = b"mischief handshake"
    signed = bytes([len(domain)]) + domain + role + signed_hash + noise.public[sender]["s"]
    Ed25519PublicKey.from_public_bytes(hello["id"]).verify(hello["sig"], signed)
    check(hello["preface"] == preface, "the preface is bound")
    text = base64.b32encode(hello["id"]).decode().rstrip("=").lower()
    check(text == peer_id, "the peer id is base32 of the key")
    return hello


def read_request(reader):
    """A message about a request, on its channel."""
    op, number = reader.number(1), reader.number(4)
    if op == 0:
        timeout, kind, name_bytes = reader.number(4), reader.number(1), reader.number(1)
        check(1 <= name_bytes <= 128, "a request has a name of 1 to 128 bytes")
        name = reader.take(name_bytes).decode()
        request = {"request": number, "timeout_ms": timeout, "name": name}
        return {**request, "kind": KINDS[kind], "body": shown_body(reader.rest())}
    if op == 1:
        return {"reply": number, "kind": KINDS[reader.number(1)], "body": shown_body(reader.rest())}
    if op == 2:
        return {"failure": number, "code": reader.number(1), "reason": reader.rest().decode()}
    check(op == 3 and reader.is_empty(), "a cancellation is left, and it is only a number")
    return {"cancel": number}


class Direction:
    """The frames of one side: opened, taken apart, put together."""

    def __init__(self, suite, key):
        self.suite, self.key, self.n = suite, key, 0
        self.received, self.parts, self.close = [], {}, None
        self.first = None

    def cipher(self, n):
        if self.suite == 2:
            return AESGCM(self.key), bytes(4) + struct.pack(">Q", n)
        return ChaCha20Poly1305(self.key), bytes(4) + struct.pack("<Q", n)

    def rekey(self):
        cipher, nonce = self.cipher(2**64 - 1)
        self.key = cipher.encrypt(nonce, bytes(32), b"")[:32]

    def read_frames(self, reader):
        while not reader.is_empty():
            sealed = reader.take(reader.number(2))
            cipher, nonce = self.cipher(self.n)
            self.n += 1
            records = Reader(cipher.decrypt(nonce, sealed, b""))
            show(f"frame {self.n}: {len(records.data)} bytes")
            while not records.is_empty():
                kind = records.number(1)
                body = Reader(records.take(records.number(2)))
                check(self.close is None or kind == 0x00, "nothing but padding follows a Close")
                self.record(kind, body, records.is_empty())

    def record(self, kind, body, is_last):
        show(f"    record {kind:#04x}: {body.data[:40].hex()}{'...' if len(body.data) > 40 else ''}")
        if self.first is None:
            self.first = kind
        else:
            check(kind != 0x01, "Accept comes first and once")
        if kind == 0x01:
            check(not body.rest(), "Accept is empty")
        elif kind == 0x02:
            code = body.number(2)
            self.close = {"closed": code, "reason": body.rest().decode()}
        elif kind == 0x06:
            check(is_last, "a rekey is the last record of its frame")
            self.rekey()
        elif kind == 0x08:
            self.received.append({"channel": body.number(1), "class": "control", "body": shown_body(body.rest())})
        elif kind & 0xF0 in CLASSES:
            self.message(kind & 0xF0, kind & 0x0F, body)
        elif kind & 0xF0 == 0x30:
            self.bulk(kind, body)
        else:
            check(kind in (0x00, 0x03, 0x04, 0x05, 0x07) or kind >= 0x80, f"record type {kind:#x}")

    def message(self, base, low, body):
        if low <= 3:
            check(base not in self.parts, "parts of a large message stand together")
            label = body.take(body.number(1))
            self.deliver(base, low, label, body.rest())
        elif low == 4:
            kind, total = body.number(1), body.number(4)
            label = body.take(body.number(1))
            self.parts[base] = (kind, total, label, body.rest())
        else:
            check(low == 5, "only parts are left")
            kind, total, label, begun = self.parts[base]
            self.parts[base] = (kind, total, label, begun + body.rest())
        if base in self.parts:
            kind, total, label, begun = self.parts[base]
            check(len(begun) <= total, "no more than was announced")
            if len(begun) == total:
                del self.parts[base]
                self.deliver(base, kind, label, begun)

    def deliver(self, base, kind, label, body):
        if kind == 3:
            check(len(label) == 1, "a channel is one byte")
            if base == 0x10 and label[0] == REQUESTS_CHANNEL:
                self.received.append(read_request(Reader(body)))
                return
            self.received.append({"channel": label[0], "class": CLASSES[base], "body": shown_body(body)})
        else:
            check(base == 0x10, "only the application's messages have names")
            self.received.append({"message": KINDS[kind], "name": label.decode(), "body": shown_body(body)})

    def bulk(self, kind, body):
        stream = body.number(4)
        if kind == 0x30:
            self.received.append({"opened": stream, "channel": body.number(1), "header": body.rest().hex()})
        elif kind == 0x31:
            self.received.append({"data": stream, "body": shown_body(body.rest())})
        elif kind == 0x32:
            self.received.append({"ended": stream})
        elif kind == 0x33:
            self.received.append({"reset": stream, "code": body.number(2)})
        else:
            check(kind == 0x34, "only a stop is left")
            self.received.append({"stopped": stream, "code": body.number(2)})


def transport_key(suite, key, sender, handshake_hash):
    if suite != 2:
        return key
    info = b"mischief 1 AES-256-GCM " + sender.encode()
    return HKDF(hashes.SHA256(), 32, handshake_hash, info).derive(key)


def check_refused(vector, code):
    check(vector["dialler"]["end"] is not None, "the dialler knows that it was refused")
    if "refused" in vector["dialler"]["end"]:
        check(vector["dialler"]["end"] == {"refused": code}, "the code is the one that was surfaced")


def check_vector(vector):
    sides = ("dialler", "responder")
    secrets, readers = {}, {}
    for side in sides:
        node = vector[side]
        secrets[side] = {
            "s": X25519PrivateKey.from_private_bytes(bytes.fromhex(node["static_secret"])),
            "e": X25519PrivateKey.from_private_bytes(bytes.fromhex(node["ephemeral_secret"])),
        }
        identity = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(node["identity_seed"]))
        text = base64.b32encode(public_bytes(identity)).decode().rstrip("=").lower()
        check(text == node["peer_id"], "the peer id belongs to the seed")
        readers[side] = Reader(bytes.fromhex(node["sends"]))
    psk = bytes.fromhex(vector["network_key"]) if vector["network_key"] else None
    prefaces = {"dialler": read_preface(readers["dialler"])}
    check(prefaces["dialler"][12:] == protocol_hash(vector["protocol"]), "the protocol's hash")
    noise = Noise(psk, prefaces["dialler"], secrets["dialler"], secrets["responder"])

    message, _ = read_handshake_message(readers["dialler"])
    check(len(message) == (48 if psk else 32), "the size of message 1")
    check(noise.read("dialler", ["psk", "e"], message) == b"", "message 1 has no payload")
    check(noise.public["dialler"]["e"] == public_bytes(secrets["dialler"]["e"]), "the ephemeral key")

    prefaces["responder"] = read_preface(readers["responder"])
    message, code = read_handshake_message(readers["responder"])
    if code is not None:
        return check_refused(vector, code)
    signed = noise.h
    payload = noise.read("responder", ["e", "ee", "s", "es"], message)
    hellos = {"responder": read_hello(payload, "responder", signed, noise, prefaces["responder"], vector["responder"]["peer_id"])}

    message, _ = read_handshake_message(readers["dialler"])
    signed = noise.h
    payload = noise.read("dialler", ["s", "se"], message)
    hellos["dialler"] = read_hello(payload, "dialler", signed, noise, prefaces["dialler"], vector["dialler"]["peer_id"])

    common = set(hellos["dialler"]["suites"]) & set(hellos["responder"]["suites"])
    suite = 2 if 2 in common else 1
    check(suite in common and suite == vector["suite"], "the suite")
    keys = dict(zip(sides, noise.split()))
    ends = {"dialler": None, "responder": None}
    for side, other in zip(sides, reversed(sides)):
        direction = Direction(suite, transport_key(suite, keys[side], side, noise.h))
        direction.read_frames(readers[side])
        if side == "responder":
            check(direction.first in (0x01, 0x02), "a responder begins with Accept or Close")
        else:
            check(direction.first != 0x01, "a dialler does not accept")
        check(direction.received == vector[other]["receives"], f"what the {other} receives")
        check(not direction.parts, "no message is left half-way")
        ends[other] = direction.close
    for side in sides:
        if ends[side] is not None:
            check(vector[side]["end"] == ends[side], f"the end of the {side}")


def read_record(data):
    """A signed peer record, as the vectors give it."""
    signed, signature = data[:-64], data[-64:]
    reader = Reader(signed)
    check(reader.number(1) == 1, "the version of a record")
    peer, sequence, addresses = reader.take(32), reader.number(8), []
    count = reader.number(1)
    check(1 <= count <= 4, "the number of addresses")
    for _ in range(count):
        family = reader.number(1)
        check(family in (4, 6), "the family of an address")
        ip = ipaddress.ip_address(reader.take(4 if family == 4 else 16))
        port = reader.number(2)
        addresses.append(f"{ip}:{port}" if family == 4 else f"[{ip}]:{port}")
    check(reader.is_empty(), "nothing stands between addresses and signature")
    domain = b"mischief peer record 1"
    Ed25519PublicKey.from_public_bytes(peer).verify(signature, bytes([len(domain)]) + domain + signed)
    text = base64.b32encode(peer).decode().rstrip("=").lower()
    return {"peer_id": text, "sequence": sequence, "addresses": addresses}


def check_exchange(vector):
    """Messages of the exchange of addresses."""
    records = []
    for number, message in enumerate(vector["exchange"]):
        reader = Reader(bytes.fromhex(message))
        check(len(reader.data) < 1024, "a control message has at most 1,024 bytes with its channel")
        kind, token = reader.number(1), reader.number(4)
        check((kind, token) == (vector["kind"], vector["token"]), "kind and token")
        if kind == 2:
            is_last = reader.number(1) & 1 == 1
            check(is_last == (number + 1 == len(vector["exchange"])), "the last part says so")
        while not reader.is_empty():
            records.append(read_record(reader.take(reader.number(2))))
    for record in records:
        show(record)
    check(records == vector["records"], "the records")


def main():
    global SHOW
    arguments = sys.argv[1:]
    if arguments[:1] == ["--show"]:
        SHOW = True
        arguments = arguments[1:]
    if len(arguments) != 1:
        sys.exit(__doc__)
    if arguments[0] == "-":
        vectors = json.load(sys.stdin)["vectors"]
    else:
        with open(arguments[0], encoding="utf-8") as file:
            vectors = json.load(file)["vectors"]
    for vector in vectors:
        if "exchange" in vector:
            check_exchange(vector)
        else:
            check_vector(vector)
        print(f"{vector['name']}: holds")
    print(f"{len(vectors)} vectors hold")


if __name__ == "__main__":
    main()
