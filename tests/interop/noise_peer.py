"""A mischief peer in Python, written from docs/wire.md, that talks to the real binary.

Noise comes from the package `noiseprotocol`, MessagePack from `msgpack`, signatures from `cryptography`.

    python3 noise_peer.py path/to/mischief scratch-directory
"""

import base64
import hashlib
import json
import os
import queue
import socket
import struct
import subprocess
import sys
import threading

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from noise.connection import Keypair, NoiseConnection

TIMEOUT = 20
ACCEPT, CLOSE, PING, PONG, WINDOW, REKEY, LIMITS, CONTROL = 1, 2, 3, 4, 5, 6, 7, 8
JSON, TEXT, BYTES, FIRST, NEXT = 0x10, 0x11, 0x12, 0x14, 0x15
DIALLER, RESPONDER = 1, 2


def check(is_right, what):
    if not is_right:
        raise AssertionError(what)


def preface(name=b"mischief", version=b"1.0"):
    text = b"mischief protocol" + bytes([len(name)]) + name + bytes([len(version)]) + version
    return b"mischief" + bytes([1, 1, 0, 0]) + hashlib.sha256(text).digest()


def peer_id(public):
    return base64.b32encode(public).decode().lower().rstrip("=")


class Refused(Exception):
    """A Reject in clear; its code."""


class Closed(Exception):
    """A Close in the first frame; its code."""


class Peer:
    """One connection to the binary."""

    def __init__(self, sock, role, network_key):
        sock.settimeout(TIMEOUT)
        self.socket, self.role = sock, role
        self.identity = Ed25519PrivateKey.generate()
        self.id = peer_id(self.identity.public_key().public_bytes_raw())
        pattern = b"XXpsk0" if network_key else b"XX"
        self.noise = NoiseConnection.from_name(b"Noise_" + pattern + b"_25519_ChaChaPoly_SHA256")
        if network_key:
            self.noise.set_psks(network_key)
        self.static = os.urandom(32)
        self.noise.set_keypair_from_private_bytes(Keypair.STATIC, self.static)
        (self.noise.set_as_initiator if role == DIALLER else self.noise.set_as_responder)()
        self.records, self.credit = [], 0

    # ---- bytes

    def read(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            check(part, "the connection ended")
            data += part
        return data

    def read_unit(self):
        length = struct.unpack(">H", self.read(2))[0]
        if length == 0:
            raise Refused(self.read(1)[0])
        return self.read(length)

    def write_unit(self, data, before=b""):
        self.socket.sendall(before + struct.pack(">H", len(data)) + bytes(data))

    # ---- handshake

    def hash(self):
        return self.noise.noise_protocol.handshake_state.symmetric_state.h

    def public_static(self):
        return self.noise.noise_protocol.keypairs["s"].public_bytes

    def signed(self, role, handshake_hash, static):
        domain = b"mischief handshake"
        return bytes([len(domain)]) + domain + bytes([role]) + bytes(handshake_hash) + static

    def hello(self):
        signed = self.signed(self.role, self.hash(), self.public_static())
        return msgpack.packb({
            "id": self.identity.public_key().public_bytes_raw(),
            "sig": self.identity.sign(signed),
            "preface": preface(),
            "suites": [1],
            "features": 0,
            "limits": {"window": 262144, "message": 1 << 20, "streams": 0},
            "name": "python",
            "of a later version": [1, {"nested": True}],
        })

    def read_hello(self, message, their_preface):
        handshake_hash = bytes(self.hash())
        # The state forgets the remote key when the handshake is over, so it is kept here.
        state = self.noise.noise_protocol.handshake_state
        payload = self.noise.read_message(message)
        hello = msgpack.unpackb(bytes(payload))
        static = state.rs.public_bytes
        signed = self.signed(3 - self.role, handshake_hash, static)
        Ed25519PublicKey.from_public_bytes(hello["id"]).verify(hello["sig"], signed)
        check(hello["preface"] == their_preface, "the preface was changed on the way")
        check(1 in hello["suites"], "ChaCha20-Poly1305 is always on offer")
        self.theirs = hello
        self.their_id = peer_id(hello["id"])
        self.credit = hello["limits"]["window"]

    def dial(self):
        self.noise.set_prologue(preface())
        self.noise.start_handshake()
        self.write_unit(self.noise.write_message(), preface())
        their_preface = self.read(44)
        self.read_hello(self.read_unit(), their_preface)
        self.write_unit(self.noise.write_message(self.hello()))
        kind, body = self.next_record()
        if kind == CLOSE:
            raise Closed(struct.unpack(">H", body[:2])[0])
        check((kind, body) == (ACCEPT, b""), "the first record is Accept")

    def answer(self):
        their_preface = self.read(44)
        check(their_preface == preface(), "the binary runs the same protocol")
        self.noise.set_prologue(their_preface)
        self.noise.start_handshake()
        check(self.noise.read_message(self.read_unit()) == b"", "message 1 has no payload")
        self.write_unit(self.noise.write_message(self.hello()), preface())
        self.read_hello(self.read_unit(), their_preface)
        self.send(ACCEPT, b"")

    # ---- frames and records

    def send(self, *records):
        plain = b""
        for kind, body in zip(records[::2], records[1::2]):
            plain += bytes([kind]) + struct.pack(">H", len(body)) + body
        self.write_unit(self.noise.encrypt(plain))

    def read_frame(self):
        """Reads one frame: control traffic is dealt with at once, the rest is kept."""
        plain = self.noise.decrypt(self.read_unit())
        while plain:
            length = struct.unpack(">H", plain[1:3])[0]
            kind, body, plain = plain[0], plain[3:3 + length], plain[3 + length:]
            if kind == PING:
                self.send(PONG, body)
            elif kind == WINDOW:
                stream, granted = struct.unpack(">II", body)
                check(stream == 1, "only the stream of messages is used")
                self.credit += granted
            elif kind == REKEY:
                self.noise.rekey_inbound_cipher()
            elif kind not in (LIMITS, CONTROL) and kind < 0x80:
                # Subsystems' messages on channels that one does not know mean nothing.
                self.records.append((kind, body))

    def next_record(self):
        while not self.records:
            self.read_frame()
        return self.records.pop(0)

    def send_on_stream(self, kind, body):
        """Sends a record when the window has room for it."""
        while self.credit < 3 + len(body):
            self.read_frame()
        self.credit -= 3 + len(body)
        self.send(kind, body)

    def send_message(self, kind, name, body):
        self.send_on_stream(kind, bytes([len(name)]) + name + body)

    def send_large(self, kind, name, body):
        head = bytes([kind - JSON]) + struct.pack(">I", len(body)) + bytes([len(name)]) + name
        self.send_on_stream(FIRST, head + body[:10000])
        for at in range(10000, len(body), 10000):
            self.send_on_stream(NEXT, body[at:at + 10000])

    def next_stream_record(self):
        """A record of the stream of messages; what it took of the window is granted again at once."""
        kind, body = self.next_record()
        self.send(WINDOW, struct.pack(">II", 1, 3 + len(body)))
        return kind, body

    def next_message(self):
        kind, body = self.next_stream_record()
        if kind != FIRST:
            check(kind in (JSON, TEXT, BYTES), f"record {kind:#x} is a message")
            return kind, body[1:1 + body[0]], body[1 + body[0]:]
        total, name_length = struct.unpack(">IB", body[1:6])
        message_kind, name = JSON + body[0], body[6:6 + name_length]
        whole = body[6 + name_length:]
        while len(whole) < total:
            kind, part = self.next_stream_record()
            check(kind == NEXT, "the parts of a message follow each other")
            whole += part
        return message_kind, name, whole


class Binary:
    """A running `mischief node --json`."""

    def __init__(self, path, *arguments):
        command = [path, "node", "--json", "--ephemeral", "--listen", "127.0.0.1:0", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()
        self.kept, self.next_id = [], 0
        ready = self.event("ready")
        host, port = ready["listen"][0].rsplit(":", 1)
        self.id, self.addr = ready["peer_id"], (host, int(port))

    def read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def find(self, fits):
        for place, value in enumerate(self.kept):
            if fits(value):
                return self.kept.pop(place)
        while True:
            value = self.lines.get(timeout=TIMEOUT)
            if fits(value):
                return value
            self.kept.append(value)

    def event(self, name):
        return self.find(lambda value: value.get("event") == name)

    def start(self, cmd, **members):
        self.next_id += 1
        line = json.dumps({"id": self.next_id, "cmd": cmd, **members})
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return self.next_id

    def finish(self, number):
        return self.find(lambda value: "ok" in value and value["id"] == number)

    def ask(self, cmd, **members):
        answer = self.finish(self.start(cmd, **members))
        check(answer["ok"], f"{cmd}: {answer}")
        return answer

    def stop(self):
        self.ask("shutdown")
        self.event("stopped")
        check(self.process.wait(TIMEOUT) == 0, "the exit code is 0")


def talk(peer, binary):
    """Messages of all kinds and sizes both ways, and pings."""
    value = {"from": "python", "list": [1, None, "ü"]}
    peer.send_message(JSON, b"chat", json.dumps(value).encode())
    event = binary.event("message")
    check((event["peer"], event["type"], event["data"]) == (peer.id, "chat", value), event)
    binary.ask("send", peer=peer.id, type="reply", data=value)
    kind, name, body = peer.next_message()
    check((kind, name, json.loads(body)) == (JSON, b"reply", value), body)

    for size in (3, 100_000, 400_000):
        text, data = "ü" * (size // 2), os.urandom(size)
        send = peer.send_message if size < 16_000 else peer.send_large
        send(TEXT, b"", text.encode())
        check(binary.event("text")["text"] == text, "the text came as it was sent")
        if size < 200_000:
            send(BYTES, b"", data)
            check(base64.b64decode(binary.event("bytes")["base64"]) == data, "the bytes came")
        encoded = base64.b64encode(data).decode()
        number = binary.start("send_bytes", peer=peer.id, base64=encoded)
        check(peer.next_message() == (BYTES, b"", data), "the bytes came as they were sent")
        check(binary.finish(number)["ok"], "they were handed to the socket")

    # Several records in one frame, one of them of a later version.
    peer.send(0x99, b"later", PING, b"abcd", TEXT, b"\0one", TEXT, b"\0two")
    peer.credit -= 14
    check([binary.event("text")["text"] for _ in "12"] == ["one", "two"], "both came, in order")
    check(peer.next_record() == (PONG, b"abcd"), "the ping was answered")


def as_dialler(binary, key):
    peer = Peer(socket.create_connection(binary.addr, TIMEOUT), DIALLER, key)
    peer.dial()
    check(peer.their_id == binary.id, "the binary proves the identity that it shows")
    event = binary.event("peer_connected")
    check((event["peer"], event["name"]) == (peer.id, "python"), event)
    check((event["direction"], event["suite"]) == ("in", "chacha20-poly1305"), event)
    talk(peer, binary)
    peer.send(CLOSE, struct.pack(">H", 0) + b"that was all")
    check(binary.event("peer_disconnected")["reason"] == "by_peer", "the Close was understood")


def as_responder(binary, key):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT)
        number = binary.start("connect", addr="127.0.0.1:%d" % server.getsockname()[1])
        peer = Peer(server.accept()[0], RESPONDER, key)
    peer.answer()
    check(binary.finish(number).get("peer") == peer.id, "`connect` names who answered")
    check(peer.their_id == binary.id, "the binary proves the identity that it shows")
    check(binary.event("peer_connected")["direction"] == "out", "the binary dialled")
    talk(peer, binary)
    binary.ask("disconnect", peer=peer.id[:8])
    kind, body = peer.next_record()
    check((kind, body[:2]) == (CLOSE, bytes(2)), "the binary closes, and nothing is wrong")
    check(binary.event("peer_disconnected")["reason"] == "requested", "the binary knows why")


def refusals(binary, key):
    """What must not get in is refused in words."""
    for wrong in (None if key else os.urandom(32), os.urandom(32)):
        peer = Peer(socket.create_connection(binary.addr, TIMEOUT), DIALLER, wrong)
        try:
            peer.dial()
            raise AssertionError("a wrong network key got in")
        except Refused as refused:
            check(refused.args == (3,), f"{refused} is a wrong network key")
    forger = Peer(socket.create_connection(binary.addr, TIMEOUT), DIALLER, key)
    forger.identity_of_another = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    hello = forger.hello
    forger.hello = lambda: msgpack.packb(
        {**msgpack.unpackb(hello()), "id": forger.identity_of_another}
    )
    try:
        forger.dial()
        raise AssertionError("a peer got in under another's name")
    except Closed as closed:
        check(closed.args == (6,), f"{closed} is a protocol error")


def main(path, scratch):
    key = os.urandom(32)
    key_file = os.path.join(scratch, "net.key")
    with open(key_file, "w") as file:
        file.write(key.hex())
    for name, key, arguments in (
        ("XX", None, []),
        ("XXpsk0", key, ["--network-key-file", key_file]),
    ):
        binary = Binary(path, *arguments)
        for step in (as_dialler, as_responder, refusals):
            step(binary, key)
            print(f"Noise_{name}_25519_ChaChaPoly_SHA256 {step.__name__}: well")
        binary.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
