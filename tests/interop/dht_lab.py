"""A DHT of libtorrent nodes on loopback with our node in it. Called by dht.sh: dht_lab.py MISCHIEF MINUTES"""
import hashlib
import json
import os
import subprocess
import sys
import threading
import time

import libtorrent as lt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SETTINGS = {
    "enable_dht": True, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "dht_bootstrap_nodes": "", "max_retry_port_bind": 0, "aio_threads": 1, "hashing_threads": 0,
    # Loopback is one network and one owner: what protects a public DHT would leave nobody here.
    "dht_restrict_routing_ips": False, "dht_restrict_search_ips": False,
    "dht_prefer_verified_node_ids": False, "dht_ignore_dark_internet": False,
    "allow_multiple_connections_per_ip": True,
    "dht_upload_rate_limit": 1_000_000, "dht_block_ratelimit": 1000, "dht_sample_infohashes_interval": 0,
    "alert_mask": lt.alert.category_t.dht_notification | lt.alert.category_t.status_notification
    | lt.alert.category_t.error_notification | lt.alert.category_t.dht_operation_notification
    | lt.alert.category_t.stats_notification,
}
LONG = 30


def check(what, condition, detail=""):
    if not condition:
        sys.exit(f"FAILED: {what} {detail}")
    print(f"ok: {what}", flush=True)


class Theirs:
    """A libtorrent node."""

    def __init__(self, host, port):
        self.addr = (host, port)
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.session = lt.session(SETTINGS | {"listen_interfaces": shown})
        if not self.wait(lt.listen_succeeded_alert):
            sys.exit(f"libtorrent cannot listen on {shown}")

    def wait(self, kind, match=lambda alert: True, timeout=LONG):
        end = time.time() + timeout
        while (left := end - time.time()) > 0:
            self.session.wait_for_alert(int(left * 1000) + 1)
            for alert in self.session.pop_alerts():
                if isinstance(alert, kind) and match(alert):
                    return alert
        return None

    def known(self):
        self.session.pop_alerts()
        self.session.post_dht_stats()
        alert = self.wait(lt.dht_stats_alert, timeout=5)
        return sum(bucket["num_nodes"] for bucket in alert.routing_table) if alert else 0

    def ids(self):
        state = self.session.save_state(lt.save_state_flags_t.save_dht_state)
        return [entry[:20] for entry in state[b"dht state"][b"node-id"]]

    def live(self):
        """The addresses of the nodes in its table that are not failing."""
        nodes = set()
        for own in self.ids():
            self.session.pop_alerts()
            self.session.dht_live_nodes(lt.sha1_hash(own))
            alert = self.wait(lt.dht_live_nodes_alert, timeout=5)
            for node in alert.nodes if alert else []:
                addr = node["endpoint"] if isinstance(node, dict) else node[1]
                nodes.add((addr[0], addr[1]))
        return nodes

    def find(self, info_hash, wanted):
        end = time.time() + LONG
        found = set()
        while wanted not in found and time.time() < end:
            self.session.pop_alerts()
            self.session.dht_get_peers(lt.sha1_hash(info_hash))
            while alert := self.wait(lt.dht_get_peers_reply_alert, timeout=2):
                found |= {(peer[0], peer[1]) for peer in alert.peers()}
        return found

    def get(self, target):
        self.session.dht_get_immutable_item(lt.sha1_hash(target))
        alert = self.wait(lt.dht_immutable_item_alert)
        return plain(alert.item) if alert else None

    def put(self, text):
        target = self.session.dht_put_immutable_item(text.encode())
        alert = self.wait(lt.dht_put_alert)
        return str(target), alert.num_success if alert else 0

    def put_mutable(self, seed, text, salt):
        expanded = bytearray(hashlib.sha512(seed).digest())
        expanded[0] &= 248
        expanded[31] = expanded[31] & 63 | 64
        self.session.pop_alerts()
        self.session.dht_put_mutable_item(bytes(expanded), public(seed), text.encode(), salt.encode())
        alert = self.wait(lt.dht_put_alert)
        return alert.num_success if alert else 0

    def get_mutable(self, key, salt):
        self.session.dht_get_mutable_item(key, salt.encode())
        alert = self.wait(lt.dht_mutable_item_alert, lambda alert: alert.authoritative)
        return (plain(alert.item), alert.seq) if alert else None

    def sample(self, addr):
        self.session.pop_alerts()
        self.session.dht_sample_infohashes(addr, lt.sha1_hash(bytes(20)))
        alert = self.wait(lt.dht_sample_infohashes_alert, timeout=10)
        return alert and {bytes.fromhex(str(sample)) for sample in alert.samples}


def public(seed):
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def plain(item):
    item = item() if callable(item) else item
    if isinstance(item, dict):
        item = item.get("value", item)
    return item.decode(errors="replace") if isinstance(item, bytes) else item


class Ours:
    """`mischief node --json`."""

    def __init__(self, path, listen, bootstrap):
        command = [path, "node", "--json", "--ephemeral", "--listen", listen, "--protocol", f"lab-{listen}/1",
                   "--dht-bootstrap", bootstrap]
        if "--no-mdns" in subprocess.run([path, "node", "--help"], capture_output=True, text=True).stdout:
            command.append("--no-mdns")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines, self.changed, self.serial = [], threading.Condition(), 0
        threading.Thread(target=self.read, daemon=True).start()
        self.addr = self.wait(lambda line: line.get("event") == "ready")["listen"][0]

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(json.loads(line))
                self.changed.notify_all()

    def wait(self, match, timeout=2 * LONG):
        with self.changed:
            found = lambda: next((line for line in self.lines if match(line)), None)
            if not self.changed.wait_for(found, timeout):
                sys.exit(f"FAILED: our node says nothing that is waited for: {self.lines[-5:]}")
            return found()

    def ask(self, cmd, **members):
        self.serial += 1
        own = self.serial
        self.process.stdin.write(json.dumps({"id": own, "cmd": cmd, **members}) + "\n")
        self.process.stdin.flush()
        return self.wait(lambda line: line.get("id") == own)

    def end(self):
        self.process.terminate()
        self.process.wait(LONG)


def run(path, hosts, listen, minutes):
    family = "IPv6" if "[" in listen else "IPv4"
    theirs = [Theirs(host, port) for host, port in hosts]
    for index, node in enumerate(theirs):
        for other in {0, index // 2, index - 1} - {index, -1}:
            node.session.add_dht_node(hosts[other])
    end = time.time() + LONG
    while min(node.known() for node in theirs) < 4 and time.time() < end:
        time.sleep(0.5)
    host, port = hosts[3]
    ours = Ours(path, listen, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    own = ours.addr.rpartition(":")
    own = (own[0].strip("[]"), int(own[2]))
    ready = ours.wait(lambda line: line.get("event") == "dht_ready")
    check(f"{family}: joined by one address", ready["nodes"] >= 1)

    ours_hash, theirs_hash = hashlib.sha1(b"ours").digest(), hashlib.sha1(b"theirs").digest()
    stored = ours.ask("dht_announce", hash=ours_hash.hex(), port=5555)
    check("our announcement is stored", stored["ok"] and stored["stored"] >= 4, stored)
    check("libtorrent finds us", (own[0], 5555) in theirs[20 % len(theirs)].find(ours_hash, (own[0], 5555)))
    theirs[5].session.dht_announce(lt.sha1_hash(theirs_hash), 6666, 0)
    end, found = time.time() + LONG, []
    while f"{theirs[5].addr[0]}:6666" not in [peer.replace("[", "").replace("]", "") for peer in found]:
        if time.time() > end:
            sys.exit(f"FAILED: we find {found} instead of libtorrent")
        found = ours.ask("dht_find", hash=theirs_hash.hex(), seconds=10)["peers"]
    check("we find libtorrent", True)

    put = ours.ask("dht_put", value="hello from mischief")
    check("our immutable item is stored", put["ok"] and put["stored"] >= 4, put)
    check("libtorrent gets it", theirs[11].get(bytes.fromhex(put["target"])) == "hello from mischief")
    target, count = theirs[7].put("hello from libtorrent")
    check("their immutable item is stored", count >= 4)
    got = ours.ask("dht_get", target=target)
    check("we get it", got.get("value") == "hello from libtorrent", got)

    seed = bytes([7]) * 32
    for number, text in enumerate(["first", "second", "third"], 1):
        put = ours.ask("dht_put", value=text, secret_key=seed.hex(), salt="salt")
        check(f"our mutable item, version {number}", put["ok"] and put["stored"] >= 4 and put["seq"] == number, put)
    got = theirs[9].get_mutable(public(seed), "salt")
    check("libtorrent gets the newest", got == ("third", 3), got)
    stale = ours.ask("dht_put", value="old", secret_key=seed.hex(), salt="salt", seq=1)
    check("an old version is rejected", stale["stored"] == 0 and stale["rejected"] >= 4, stale)
    swapped = ours.ask("dht_put", value="fourth", secret_key=seed.hex(), salt="salt", seq=4, cas=2)
    check("a wrong cas is rejected", swapped["rejected"] >= 4, swapped)
    other = bytes([8]) * 32
    for text in ["one", "two"]:
        check("their mutable item", theirs[2].put_mutable(other, text, "pepper") >= 4)
    got = ours.ask("dht_get", public_key=public(other).hex(), salt="pepper")
    check("we get the newest", got.get("value") == "two" and got.get("seq", 0) >= 2, got)

    sample = ours.ask("dht_sample", target=theirs_hash.hex())
    check("we sample them", theirs_hash.hex() in sample["samples"], sample)
    # libtorrent sends no sample_infohashes over IPv6 from a loopback address.
    if family == "IPv4":
        end, seen = time.time() + LONG, None
        while seen is None and time.time() < end:
            seen = theirs[1].sample(own)
        check("they sample us", seen is not None, seen)

    began = time.time()
    knowing = lambda: sum(own in node.live() for node in theirs)
    end = time.time() + LONG
    while knowing() < 3 and time.time() < end:
        time.sleep(1)
    count = knowing()
    check(f"{count} of {len(theirs)} libtorrent nodes have us in their tables", count >= 3)
    before = ours.ask("dht_stats")["stats"]["answered"]
    while time.time() < began + 60 * minutes:
        time.sleep(min(10, max(0.1, began + 60 * minutes - time.time())))
        now = knowing()
        if now < min(count, 3):
            sys.exit(f"FAILED: only {now} of {count} still have us after {time.time() - began:.0f} s")
        theirs[int(time.time()) % len(theirs)].session.dht_get_peers(lt.sha1_hash(os.urandom(20)))
    stats = ours.ask("dht_stats")
    if minutes:
        answered = stats["stats"]["answered"] - before
        check(f"after {minutes} minutes {knowing()} have us, {answered} queries answered", answered > 0)
    print(f"{family}: {stats['nodes']} good nodes in our table", flush=True)
    ours.end()


def main():
    path, minutes = sys.argv[1], float(sys.argv[2])
    run(path, [(f"127.77.0.{index + 1}", 21781) for index in range(30)], "127.66.0.1:0", minutes)
    run(path, [("::1", 21900 + index) for index in range(30)], "[::1]:0", 0)


main()
