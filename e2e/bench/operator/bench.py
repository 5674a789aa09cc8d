#!/usr/bin/env python3
"""The operator at scale: one RtcCluster over many simulated nodes, and many that select none.

    cargo build --release -p rtc-operator
    e2e/bench/operator/bench.py --bin DIR --operator target/release/rtc-operator

DIR has etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl and kwok. All runs on loopback, in a
temporary directory, and ends with the bench. TURN pods are kwok's; this process answers their admin ports.
"""
import argparse, http.client, json, os, shutil, signal, socket, ssl, statistics, subprocess, sys, tempfile, threading, time
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HERE = os.path.dirname(os.path.abspath(__file__))
CLUSTERS = "/apis/rtc-operator.dev/v1alpha1/namespaces/bench/rtcclusters"
BIG, SMALL = "big", "small-%03d"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


ADMIN_PORT = free_port()


class Api:
    """One connection per thread, as an administrator."""

    def __init__(self, port):
        self.port, self.local = port, threading.local()
        self.tls = ssl._create_unverified_context()

    def connect(self, timeout=60):
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=timeout)

    def call(self, method, path, body=None, kind="application/json"):
        headers = {"Authorization": "Bearer admin", "Content-Type": kind}
        for attempt in range(5):
            try:
                if not hasattr(self.local, "wire"):
                    self.local.wire = self.connect()
                self.local.wire.request(method, path, json.dumps(body) if body is not None else None, headers)
                answer = self.local.wire.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                self.local.__dict__.clear()
                time.sleep(0.2)
                continue
            value = json.loads(text) if text[:1] == b"{" else text
            if answer.status >= 400 and answer.status not in (404, 409):
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
            return value
        raise RuntimeError(f"{method} {path}: no answer")


class World:
    def __init__(self, arguments):
        self.arguments, self.children = arguments, []
        self.dir = tempfile.mkdtemp(prefix="rtc-bench-operator-")
        self.api = None

    def spawn(self, name, *flags, env=None, path=None):
        log = open(f"{self.dir}/{name}.log", "ab")
        path = path or f"{self.arguments.bin}/{name}"
        child = subprocess.Popen([path, *flags], stdout=log, stderr=log, env={**os.environ, **(env or {})})
        self.children.append(child)
        return child

    def start(self):
        etcd, peer, port = free_port(), free_port(), free_port()
        at = lambda p: f"http://127.0.0.1:{p}"
        self.spawn("etcd", "--unsafe-no-fsync", f"--data-dir={self.dir}/etcd", f"--listen-client-urls={at(etcd)}",
                   f"--advertise-client-urls={at(etcd)}", f"--listen-peer-urls={at(peer)}",
                   f"--initial-advertise-peer-urls={at(peer)}", f"--initial-cluster=default={at(peer)}")
        subprocess.run(["openssl", "genrsa", "-out", f"{self.dir}/sa.key", "2048"], check=True, stderr=subprocess.DEVNULL)
        with open(f"{self.dir}/tokens", "w") as f:
            f.write("admin,admin,admin,system:masters\noperator,operator,operator,system:masters\n")
        self.audit = f"{self.dir}/audit.log"
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived", "ResponseStarted"],
                  "rules": [{"level": "Metadata", "users": ["operator"]}, {"level": "None"}]}
        with open(f"{self.dir}/audit.json", "w") as f:
            json.dump(policy, f)
        self.spawn("kube-apiserver", f"--etcd-servers={at(etcd)}", "--bind-address=127.0.0.1", f"--secure-port={port}",
                   f"--cert-dir={self.dir}/certs", f"--token-auth-file={self.dir}/tokens", "--authorization-mode=RBAC",
                   "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
                   "--service-cluster-ip-range=10.0.0.0/16", "--service-account-issuer=https://kubernetes.default.svc",
                   f"--service-account-key-file={self.dir}/sa.key", f"--service-account-signing-key-file={self.dir}/sa.key",
                   f"--audit-policy-file={self.dir}/audit.json", f"--audit-log-path={self.audit}")
        self.api = Api(port)
        for user in ("admin", "operator"):
            with open(f"{self.dir}/{user}.kubeconfig", "w") as f:
                json.dump({"apiVersion": "v1", "kind": "Config", "current-context": "a",
                           "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
                           "clusters": [{"name": "a", "cluster": {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}}],
                           "users": [{"name": "a", "user": {"token": user}}]}, f)
        self.until("the API server", lambda: self.api.call("GET", "/readyz") == b"ok", 60)
        config = f"--kubeconfig={self.dir}/admin.kubeconfig"
        self.spawn("kube-controller-manager", config, "--leader-elect=false", "--secure-port=0", "--kube-api-qps=500",
                   "--kube-api-burst=1000", "--controllers=garbage-collector-controller,daemonset-controller,"
                   "deployment-controller,replicaset-controller")
        self.spawn("kube-scheduler", config, "--leader-elect=false", "--secure-port=0", "--kube-api-qps=500", "--kube-api-burst=1000")
        self.spawn("kwok", config, "--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                   f"--config={HERE}/stages.yaml", "--node-ip=127.0.0.1", f"--server-address=127.0.0.1:{free_port()}")
        crds = os.path.join(HERE, "../../../crds")
        subprocess.run([f"{self.arguments.bin}/kubectl", config, "apply", "--server-side", "-f", crds], check=True, stdout=subprocess.DEVNULL)
        self.api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "bench"}})
        self.api.call("POST", "/api/v1/namespaces/bench/secrets",
                      {"metadata": {"name": "redis"}, "stringData": {"url": "redis://redis.example.com:6379"}})

    def until(self, what, holds, seconds):
        deadline = time.monotonic() + seconds
        while True:
            try:
                if holds():
                    return
            except (RuntimeError, KeyError, OSError):
                pass
            if time.monotonic() > deadline:
                raise SystemExit(f"not within {seconds}s: {what}; logs were in {self.dir}")
            time.sleep(0.25)

    def nodes(self):
        def make(i):
            name = f"node-{i:04}"
            self.api.call("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": {"fleet": "big"}, "annotations": {
                "kwok.x-k8s.io/node": "fake", "rtc-operator.dev/address": f"198.18.{i // 250}.{i % 250 + 1}"}}})
            self.api.call("PATCH", f"/api/v1/nodes/{name}/status", {"status": {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"}, "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"}}},
                "application/merge-patch+json")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(make, range(self.arguments.nodes)))

    def clusters(self):
        def make(name, spec, annotations):
            self.api.call("POST", CLUSTERS, {"apiVersion": "rtc-operator.dev/v1alpha1", "kind": "RtcCluster",
                                             "metadata": {"name": name, "annotations": annotations}, "spec": spec})
        external = {"external": {"urlSecretRef": {"name": "redis", "key": "url"}}}
        turn = lambda label: {"placement": {"nodeSelector": {"fleet": label}}}
        make(BIG, {"signaling": {"replicas": 0}, "redis": external, "turn": turn("big")},
             {"rtc-operator.dev/turn-admin-port": str(ADMIN_PORT)})
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: make(SMALL % i, {"signaling": {"replicas": 0}, "redis": external, "turn": turn("none")}, {}),
                          range(self.arguments.clusters)))

    def operator(self):
        self.admin = free_port()
        return self.spawn("operator", "run", path=self.arguments.operator, env={
            "KUBECONFIG": f"{self.dir}/operator.kubeconfig", "RTC_OPERATOR_ADMIN": f"127.0.0.1:{self.admin}", "POD_NAME": "bench"})

    def metric(self, name):
        wire = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
        wire.request("GET", "/metrics")
        for line in wire.getresponse().read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        return 0.0

    def seen(self):
        items = self.api.call("GET", CLUSTERS)["items"]
        return sum(1 for c in items if c.get("status", {}).get("observedGeneration") == c["metadata"]["generation"])

    def stop(self):
        for child in reversed(self.children):
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
                child.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def admin_ports(world):
    """Answers for every TURN pod, with the ring as it is in the Secret."""
    answer = {"text": b"{}"}

    def follow():
        while True:
            try:
                data = world.api.call("GET", f"/api/v1/namespaces/bench/secrets/{BIG}-keys").get("data", {})
                ring = json.loads(b64decode(data[".ring.json"]))
                keys = [k for k in data if not k.startswith(".")]
                answer["text"] = json.dumps({"ring": {"revision": ring["revision"], "keys": keys}, "allocations": 3,
                                             "draining": False, "fleetRevision": ""}).encode()
            except (RuntimeError, KeyError):
                pass
            time.sleep(1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer["text"])))
            self.end_headers()
            self.wfile.write(answer["text"])

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 1024
        daemon_threads = True

    threading.Thread(target=follow, daemon=True).start()
    threading.Thread(target=Server(("0.0.0.0", ADMIN_PORT), Handler).serve_forever, daemon=True).start()


def memory(pid):
    lines = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if line.startswith(("Vm", "Rss")))
    return [round(int(lines[name].split()[0]) / 1024, 1) for name in ("VmRSS", "VmHWM", "RssFile")]


def edits(world, count):
    """From an edit's answer to the Deployment's change, in seconds, one after another over different clusters."""
    applied, wire = {}, world.api.connect(timeout=300)
    wire.request("GET", "/apis/apps/v1/namespaces/bench/deployments?watch=true", headers={"Authorization": "Bearer admin"})
    stream = wire.getresponse()

    def follow():
        for line in stream:
            event = json.loads(line)
            if event["type"] == "MODIFIED":
                for arg in event["object"]["spec"]["template"]["spec"]["containers"][0].get("args", []):
                    if arg.startswith("--max-room-members="):
                        applied.setdefault((event["object"]["metadata"]["name"], arg), time.monotonic())

    threading.Thread(target=follow, daemon=True).start()
    times = []
    for i in range(count):
        name, value = SMALL % (i % world.arguments.clusters), 10 + i
        begun = time.monotonic()
        world.api.call("PATCH", f"{CLUSTERS}/{name}", {"spec": {"signaling": {"maxRoomMembers": value}}}, "application/merge-patch+json")
        key = (f"{name}-signaling", f"--max-room-members={value}")
        while key not in applied and time.monotonic() - begun < 30:
            time.sleep(0.005)
        times.append(applied.get(key, begun + 30) - begun)
    return sorted(times)


def audited(world, since):
    with open(world.audit) as f:
        f.seek(since)
        entries = [json.loads(line) for line in f if line.endswith("\n")]
    entries = [e for e in entries if e.get("objectRef", {}).get("resource") != "leases" and e["verb"] != "watch"]
    writes = [e for e in entries if e["verb"] not in ("get", "list")]
    return len(entries), [f'{e["verb"]} {e["requestURI"].split("?")[0]}' for e in writes]


def measure(world):
    say = lambda what, value: print(f"{what:<48} {value}", flush=True)
    total = world.arguments.clusters + 1
    operator, begun = world.operator(), time.monotonic()
    world.until("every cluster applied", lambda: world.seen() == total, 600)
    say("first start to all applied, s", round(time.monotonic() - begun, 1))
    big = lambda: world.api.call("GET", f"{CLUSTERS}/{BIG}")["status"]
    want = f"{world.arguments.nodes}/{world.arguments.nodes}"
    world.until("every node serves", lambda: big()["keyRing"]["acknowledged"] == want, 600)
    say("first start to every node serving, s", round(time.monotonic() - begun, 1))
    say("RSS after that, at most, of files, MiB", memory(operator.pid))
    operator.kill()
    operator.wait()
    operator, begun = world.operator(), time.monotonic()
    world.until("a cold start", lambda: world.metric("rtc_operator_reconciles_total") >= total, 300)
    say("cold start to all reconciled, s", round(time.monotonic() - begun, 1))
    time.sleep(15)
    since, reconciles = os.path.getsize(world.audit), world.metric("rtc_operator_reconciles_total")
    time.sleep(world.arguments.rest)
    reconciles = world.metric("rtc_operator_reconciles_total") - reconciles
    requests, writes = audited(world, since)
    say(f"writes at rest in {world.arguments.rest}s", f"{len(writes)} {writes[:3] if writes else ''}")
    say("requests a second at rest", round(requests / world.arguments.rest, 1))
    say("requests per reconcile", round(requests / max(reconciles, 1), 1))
    say("RSS at rest, at most, of files, MiB", memory(operator.pid))
    times = edits(world, world.arguments.edits)
    say("spec to applied, p50, s", round(statistics.median(times), 3))
    say("spec to applied, p99, s", round(times[min(len(times) - 1, int(len(times) * 0.99))], 3))
    say("RSS at the end, at most, of files, MiB", memory(operator.pid))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True)
    parser.add_argument("--operator", required=True)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--rest", type=int, default=60)
    world = World(parser.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        world.start()
        admin_ports(world)
        world.nodes()
        world.clusters()
        measure(world)
    finally:
        world.stop()


if __name__ == "__main__":
    main()
