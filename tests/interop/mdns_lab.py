#!/usr/bin/env python3
"""Nodes, avahi and python-zeroconf on one network of namespaces, and what each sees of the others.

    h1 (avahi, 10.9.0.1) --+-- h2 (10.9.0.2) --+-- h3 (10.9.0.3)         alone (loopback only)

    mdns_lab.py MISCHIEF SCRATCH_DIR

All hosts have IPv6 link-local addresses too. avahi has a D-Bus and files of its own, apart from the machine's. Everything
is taken down at the end. The exit code is 0 if every check has passed.
"""
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time

LAB = f"mischief-{os.getpid()}"
HOSTS = ("h1", "h2", "h3")
TYPE = "_rats._tcp"
MISCHIEF, SCRATCH = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
BUS = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={SCRATCH}/bus"}
FLOOD_SECONDS = float(os.environ.get("MISCHIEF_FLOOD_SECONDS", "30"))
# Generous: what is measured is printed, and the machine may be busy.
SOON = 15.0

AVAHI_CONF = """[server]
host-name=avahi-host
allow-interfaces=eth0
[publish]
publish-workstation=no
publish-aaaa-on-ipv4=yes
[rlimits]
"""
DBUS_CONF = f"""<busconfig><type>system</type><listen>unix:path={SCRATCH}/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="*"/>
<allow receive_type="*"/></policy></busconfig>"""
SERVICE_XML = f"""<?xml version="1.0"?><!DOCTYPE service-group SYSTEM "avahi-service.dtd">
<service-group><name>Avahi's. own</name><service><type>{TYPE}</type><port>4001</port>
<txt-record>k=v</txt-record></service></service-group>"""

failures = []
children = []


def check(what, is_good, detail=""):
    print("ok  " if is_good else "FAIL", what, detail, flush=True)
    if not is_good:
        failures.append(what)


def sh(*argv):
    return subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE).stdout


def ns(host):
    return f"{LAB}.{host}"


def inside(host, *argv):
    return ["ip", "netns", "exec", ns(host), *argv]


def wait_for(condition, seconds):
    """What the condition gives when it is something, or None."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found or time.monotonic() > end:
            return found
        time.sleep(0.02)


class Program:
    """A program on a host whose output is lines of JSON or text, each with the time when it came."""

    def __init__(self, host, *argv, env=None):
        self.process = subprocess.Popen(
            inside(host, *argv), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=os.environ | (env or {}))
        children.append(self.process)
        self.lines, self.errors = [], []
        threading.Thread(target=self.read, args=(self.process.stdout, self.lines), daemon=True).start()
        threading.Thread(target=self.read, args=(self.process.stderr, self.errors), daemon=True).start()

    @staticmethod
    def read(stream, into):
        for line in stream:
            try:
                parsed = json.loads(line)
            except ValueError:
                parsed = line.rstrip("\n")
            into.append((time.monotonic(), parsed))

    def write(self, value):
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def event(self, name, seconds=SOON, since=0.0, **members):
        """The time and the first event of this name and with these members."""
        def find():
            for at, line in list(self.lines):
                if at >= since and isinstance(line, dict) and line.get("event") == name and \
                        all(line.get(key) == value for key, value in members.items()):
                    return at, line
            return None
        return wait_for(find, seconds) or (None, None)

    def ask(self, number, seconds=SOON, **command):
        self.write({"id": number, **command})

        def find():
            return next((line for _, line in list(self.lines)
                         if isinstance(line, dict) and line.get("id") == number), None)
        return wait_for(find, seconds) or {}

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
            self.process.wait(20)


def node(host, name, *argv):
    started = Program(host, MISCHIEF, "node", "--json", "--data-dir", f"{SCRATCH}/{name}", "--no-dht", *argv)
    at, ready = started.event("ready")
    if not ready:
        sys.exit(f"a node did not start: {started.errors}")
    started.ready_at, started.id = at, ready["peer_id"]
    started.port = int(ready["listen"][0].rsplit(":", 1)[1])
    return started


def up():
    for name in ("lan", "alone", *HOSTS):
        sh("ip", "netns", "add", ns(name))
        sh("ip", "-n", ns(name), "link", "set", "lo", "up")
        # Addresses are to be there at once.
        sh(*inside(name, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"))
    lan = ns("lan")
    sh("ip", "-n", lan, "link", "add", "br0", "up", "type", "bridge", "mcast_snooping", "0")
    for number, host in enumerate(HOSTS, 1):
        sh("ip", "link", "add", host, "netns", lan, "type", "veth", "peer", "name", "eth0", "netns", ns(host))
        sh("ip", "-n", lan, "link", "set", host, "master", "br0", "up")
        sh("ip", "-n", ns(host), "addr", "add", f"10.9.0.{number}/24", "dev", "eth0")
        sh("ip", "-n", ns(host), "link", "set", "eth0", "up")
        sh("ip", "-n", ns(host), "route", "add", "224.0.0.0/4", "dev", "eth0")
    os.makedirs(f"{SCRATCH}/avahi/services")
    files = {"dbus.conf": DBUS_CONF, "avahi/avahi-daemon.conf": AVAHI_CONF, "avahi/services/own.service": SERVICE_XML}
    for path, text in files.items():
        with open(f"{SCRATCH}/{path}", "w", encoding="utf-8") as file:
            file.write(text)
    Program("h1", "dbus-daemon", "--nofork", "--nopidfile", f"--config-file={SCRATCH}/dbus.conf")
    if not wait_for(lambda: os.path.exists(f"{SCRATCH}/bus"), 20):
        sys.exit("dbus-daemon did not start")
    # avahi's paths are fixed, so it sees others in their place.
    script = f"""mkdir -p /etc/avahi /run/avahi-daemon && mount --bind {SCRATCH}/avahi /etc/avahi &&
        mount -t tmpfs tmpfs /run/avahi-daemon && exec avahi-daemon --no-drop-root --no-chroot --no-rlimits"""
    avahi = Program("h1", "unshare", "-m", "sh", "-c", script, env=BUS)
    if not wait_for(lambda: any("established" in str(line) for _, line in list(avahi.errors)), 30):
        sys.exit(f"avahi-daemon did not start: {avahi.errors}")
    return avahi


def down():
    for process in reversed(children):
        if process.poll() is None:
            process.kill()
            process.wait()
    names = [line.split()[0] for line in sh("ip", "netns", "list").splitlines()]
    for name in names:
        if name.startswith(f"{LAB}."):
            for pid in sh("ip", "netns", "pids", name).split():
                os.kill(int(pid), signal.SIGKILL)
            sh("ip", "netns", "del", name)


def avahi_sees(service_type=TYPE):
    """Resolved services as (protocol, instance, host, address, port, txt)."""
    out = subprocess.run(inside("h1", "timeout", "20", "avahi-browse", "-rpt", service_type), env=os.environ | BUS,
                         text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    rows = [line.split(";") for line in out.splitlines() if line.startswith("=")]
    return [(row[2], row[3], row[6], row[7], int(row[8]), ";".join(row[9:])) for row in rows]


def avahi_resolves(family, host):
    """The address that avahi finds for a host."""
    out = subprocess.run(inside("h1", "timeout", "20", "avahi-resolve", family, "-n", host), env=os.environ | BUS,
                         text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return out.split()[1] if len(out.split()) > 1 else None


# ---- python-zeroconf, in a process of its own on a host

ZC_PUBLISH = """
import json, signal, socket, sys
from zeroconf import InterfaceChoice, IPVersion, ServiceInfo, Zeroconf
zc = Zeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.All)
info = ServiceInfo("_rats._tcp.local.", "zc peer._rats._tcp.local.", port=4002, server="zc-host.local.",
                   properties={"k": "zc"}, parsed_addresses=sys.argv[1:])
zc.register_service(info)
print(json.dumps({"event": "published"}), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
try:
    signal.pause()
finally:
    zc.unregister_service(info)
    zc.close()
"""

ZC_RESOLVE = """
import json, sys
from zeroconf import InterfaceChoice, IPVersion, Zeroconf
zc = Zeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.All)
info = zc.get_service_info("_rats._tcp.local.", sys.argv[1] + "._rats._tcp.local.", 8000)
if info:
    text = lambda value: value and value.decode()
    print(json.dumps({"event": "resolved", "port": info.port, "server": info.server,
                      "addrs": info.parsed_addresses(),
                      "txt": {key.decode(): text(value) for key, value in info.properties.items()}}), flush=True)
zc.close()
"""


def link_local(host):
    out = json.loads(sh("ip", "-n", ns(host), "-j", "addr", "show", "dev", "eth0"))
    return next(one["local"] for one in out[0]["addr_info"] if one["local"].startswith("fe80"))


# ---- a flood

def wire_name(text):
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def forged(first, count):
    """A response with `count` services that do not exist, four records each."""
    body = b""
    for number in range(first, first + count):
        instance, host = f"forged-{number}.{TYPE}.local", f"f{number}.local"

        def record(owner, kind, cls, ttl, data):
            return wire_name(owner) + struct.pack(">HHIH", kind, cls, ttl, len(data)) + data
        body += record(f"{TYPE}.local", 12, 1, 4500, wire_name(instance))
        body += record(instance, 33, 0x8001, 120, struct.pack(">HHH", 0, 0, 9) + wire_name(host))
        body += record(instance, 16, 0x8001, 4500, b"\x03k=v")
        body += record(host, 1, 0x8001, 120, bytes([10, 9, 0, 66]))
    return struct.pack(">6H", 0, 0x8400, 0, 4 * count, 0, 0) + body


def flood(seconds):
    """20,000 records a second from 200 addresses of h1, in packets of 20. How many a second it came to."""
    for number in range(200):
        subprocess.run(["ip", "-n", ns("h1"), "addr", "add", f"10.9.1.{number + 1}/16", "dev", "eth0"], check=True)
    script = (
        f"import socket, struct, time\nTYPE = {TYPE!r}\n"
        + open(__file__, encoding="utf-8").read().split("# ---- a flood\n")[1].split("def flood(")[0]
        + f"""
sockets = []
for number in range(200):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind((f"10.9.1.{{number + 1}}", 5353))
    one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(f"10.9.1.{{number + 1}}"))
    sockets.append(one)
packets = [forged(5 * number, 5) for number in range(4000)]
begun, sent = time.monotonic(), 0
while time.monotonic() - begun < {seconds}:
    if sent < 1000 * (time.monotonic() - begun):
        sockets[sent % 200].sendto(packets[sent % 4000], ("224.0.0.251", 5353))
        sent += 1
    else:
        time.sleep(0.001)
print(int(20 * sent / (time.monotonic() - begun)))
""")
    return int(sh(*inside("h1", sys.executable, "-c", script)))


# ---- the checks

def nodes_meet():
    one = node("h2", "one")
    time.sleep(3)
    two = node("h3", "two")
    at, line = two.event("peer_connected", peer=one.id)
    found_at, _ = two.event("mdns_found", peer_id=one.id)
    check("a node finds another", found_at is not None, f"{found_at - two.ready_at:.3f} s" if found_at else "")
    check("two nodes with nothing but a data directory connect", line is not None, str(two.errors[-3:]) if not line else "")
    if at:
        check("within a second of the second one's start", at - two.ready_at < 1.5, f"{at - two.ready_at:.3f} s")
    _, found = two.event("mdns_found", peer_id=one.id)
    check("the find tells the addresses of both families", found is not None
          and "10.9.0.2" in found["addrs"] and any(addr.startswith("fe80") for addr in found["addrs"]), str(found))
    _, line = two.event("peer_found", peer=one.id, source="mdns")
    check("and where the peer was found", line is not None)
    return one, two


def avahi_and_we(one):
    seen = wait_for(lambda: [row for row in avahi_sees() if one.id in row[5]], SOON) or []
    families = {row[0] for row in seen}
    check("avahi-browse resolves our node over both families", families == {"IPv4", "IPv6"}, str(seen))
    check("with the right port", bool(seen) and all(row[4] == one.port for row in seen), str(seen))
    # avahi-browse shows one address of each service; the records are asked for here.
    addrs = [avahi_resolves(family, f"{one.id[:8]}.local") for family in ("-4", "-6")]
    check("with A and AAAA", addrs == ["10.9.0.2", link_local("h2")], str(addrs))
    _, line = one.event("mdns_found", instance="Avahi's. own")
    check("we find avahi's service", line is not None)
    numbers = iter(range(1000))

    def is_whole():
        services = one.ask(f"services {next(numbers)}", cmd="mdns_services").get("services", [])
        return [found for found in services if found["instance"] == "Avahi's. own" and found["port"] == 4001
                and found["txt"] == {"k": "v"} and {"10.9.0.1", link_local("h1")} <= set(found["addrs"])]
    check("with its port, text and addresses", bool(wait_for(is_whole, SOON)))


def share_the_port(one, avahi):
    """A node on avahi's own host: both go on to see and to be seen."""
    third = node("h1", "three")
    _, line = third.event("peer_connected", peer=one.id)
    check("a node that shares port 5353 with avahi finds others", line is not None, str(third.errors[-3:]))
    seen = wait_for(lambda: [row for row in avahi_sees() if third.id in row[5]], SOON)
    check("avahi finds it beside itself", bool(seen))
    _, line = third.event("mdns_found", instance="Avahi's. own")
    check("and it finds avahi", line is not None)
    check("avahi runs", avahi.process.poll() is None)
    third.end()


def zeroconf_and_we(one):
    published = Program("h3", sys.executable, "-c", ZC_PUBLISH, "10.9.0.3", link_local("h3"))
    published.event("published", 30)
    _, line = one.event("mdns_found", instance="zc peer")
    check("we find python-zeroconf's service", line is not None and line["port"] == 4002
          and line["txt"] == {"k": "zc"} and "10.9.0.3" in line["addrs"], str(line))
    instance = one.id[:8]
    resolver = Program("h3", sys.executable, "-c", ZC_RESOLVE, instance)
    _, line = resolver.event("resolved", 30)
    check("python-zeroconf resolves our node", line is not None and line["port"] == one.port
          and line["txt"].get("id") == one.id and "10.9.0.2" in line["addrs"]
          and any(addr.startswith("fe80") for addr in line["addrs"]), str(line))
    then = time.monotonic()
    published.end()
    at, line = one.event("mdns_lost", since=then, instance="zc peer")
    check("we see it say goodbye", line is not None)


def one_name_twice():
    first = Program("h2", MISCHIEF, "mdns", "register", "--json", "_http._tcp", "Same name", "8080", "path=/")
    _, line = first.event("mdns_registered", instance="Same name")
    check("a service is registered under its name", line is not None, str(first.errors))
    second = Program("h3", MISCHIEF, "mdns", "register", "--json", "_http._tcp", "Same name", "8081")
    _, line = second.event("mdns_registered", instance="Same name (2)")
    check("the same name elsewhere gets a number", line is not None, str(second.lines))
    seen = wait_for(lambda: (lambda rows: rows if len({row[1] for row in rows}) == 2 else None)(
        avahi_sees("_http._tcp")), SOON)
    check("avahi sees both", bool(seen), str(seen))
    browser = Program("h1", MISCHIEF, "mdns", "browse", "--json", "_http._tcp")
    _, line = browser.event("mdns_found", instance="Same name")
    check("so does mischief mdns browse", line is not None and line["txt"] == {"path": "/"}, str(line))
    types = Program("h1", MISCHIEF, "mdns", "browse", "--json")
    _, line = types.event("mdns_type_found", type="_http._tcp")
    check("which also lists types", line is not None)
    for program in (first, second, browser, types):
        program.end()


def ends(one, two):
    then = time.monotonic()
    two.end()
    at, line = one.event("mdns_lost", since=then, instance=two.id[:8])
    check("a goodbye is seen within a second and a half", at is not None and at - then < 2.5,
          f"{at - then:.3f} s" if at else "never")
    two = node("h3", "two")
    one.event("mdns_found", since=then, instance=two.id[:8])
    time.sleep(2)
    then = time.monotonic()
    two.end(signal.SIGKILL)
    # Somebody new asks, and nobody answers.
    asker = Program("h1", MISCHIEF, "mdns", "browse", "--json", TYPE)
    at, line = one.event("mdns_lost", 30, since=then, instance=two.id[:8])
    check("a killed node is gone when questions stay unanswered for ten seconds", at is not None and at - then < 16,
          f"{at - then:.1f} s" if at else "never")
    asker.end()


def alone():
    started = node("alone", "lonely")
    time.sleep(1)
    warnings = [line for _, line in started.errors if "mdns" in str(line)]
    check("a node without a network says so once and runs", len(warnings) == 1
          and started.process.poll() is None, str(started.errors))
    started.end()


def withstand(one):
    two = node("h3", "two")
    _, line = one.event("peer_connected", peer=two.id, since=two.ready_at)
    check("the genuine peer is connected before the flood", line is not None)
    time.sleep(2)
    before, begun = one.cpu_seconds(), time.monotonic()
    rate = flood(FLOOD_SECONDS)
    used = (one.cpu_seconds() - before) / (time.monotonic() - begun)
    check("a flood of forged records", rate > 10_000, f"{rate} records/s for {FLOOD_SECONDS:.0f} s, "
          f"{100 * used:.1f} % of a core")
    check("costs less than 30 % of a core", used < 0.30, f"{100 * used:.1f} %")
    services = one.ask("after", cmd="mdns_services").get("services", [])
    check("the genuine peer stays resolved", any(one_of["peer_id"] == two.id for one_of in services))
    check("and what is kept stays small", len(services) <= 256, f"{len(services)} services")
    with open(f"/proc/{one.process.pid}/status") as status:
        print("     resident after the flood:", re.search(r"VmRSS:\s+(\d+ kB)", status.read())[1])
    two.end()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        avahi = up()
        one, two = nodes_meet()
        avahi_and_we(one)
        share_the_port(one, avahi)
        zeroconf_and_we(one)
        one_name_twice()
        ends(one, two)
        alone()
        withstand(one)
    finally:
        down()
    print(f"{len(failures)} failed" if failures else "all passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
