"""What is under deploy/ fits the engine: the metrics, settings and flags that it names are there, the files whole."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import tomllib
from collections import UserDict
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from tests.fixtures.helm import Failed, environment, problems, render

import fastnl
from fastnl_engine.cli.checks_host import NEEDED, WANTED
from fastnl_engine.config import Config, Fleet, Ligato, load
from fastnl_engine.main import main
from fastnl_engine.metrics import Metrics, Tally

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "fastnl"
UNIT = DEPLOY / "systemd" / "fastnl-engine.service"
SETTINGS = [f.name for f in fields(Config)]
TABLES = {"ligato": Ligato, "fleet": Fleet}

pytestmark = pytest.mark.skipif(not DEPLOY.is_dir(), reason="deploy/ is not there, this is no source tree")


# -- metrics -----------------------------------------------------------------------------------------

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
ADDED = {"instance", "job", "le", "node"}  # by the one who scrapes, and of every histogram


def exported() -> dict[str, set[str]]:
    """Name of each series -> its labels."""
    attributes = vars(Metrics()).values()
    metrics = [m for m in attributes if isinstance(m, MetricWrapperBase)]
    tallies = {f"{m.name}_total": set(m.labels) for m in attributes if isinstance(m, Tally)}
    return tallies | {m._name + suffix: set(m._labelnames) for m in metrics for suffix in SUFFIXES[m._type]}


def alerts() -> list[dict]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict]:
    return json.loads((DEPLOY / "grafana" / "fastnl.json").read_text())["panels"]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_metric_and_label_is_one_of_the_engines(where, expression):
    known = exported()
    used = re.findall(r"\b(fastnl_\w+)(?:\{([^}]*)\})?", expression)
    assert used or "up{" in expression
    assert {name for name, _ in used} <= set(known), where
    for name, selector in used:
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        assert labels <= known[name] | ADDED, where
    kept = {word for group in re.findall(r"\bby \(([^)]*)\)", expression) for word in re.findall(r"\w+", group)}
    assert kept <= ADDED.union(*(known[name] for name, _ in used)), where


def test_every_alert_says_what_it_is_about():
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]


def test_states_of_alerts_and_panels_are_those_that_the_engine_counts():
    states = {s for _, e in expressions() for s in re.findall(r'state="(\w+)"', e)}
    stages = {s for _, e in expressions() for s in re.findall(r'stage="(\w+)"', e)}
    assert states <= {"up", "pending", "failed"}
    assert stages <= {"waiting", "intent", "kernel", "outcome"}


def test_panels_do_not_cover_each_other():
    taken: dict[tuple[int, int], str] = {}
    for panel in panels():
        p = panel["gridPos"]
        assert p["x"] + p["w"] <= 24
        for cell in ((x, y) for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])):
            assert cell not in taken, (panel["title"], taken.get(cell))
            taken[cell] = panel["title"]
    assert len({panel["id"] for panel in panels()}) == len(panels())


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_takes_the_alerts():
    subprocess.run(["promtool", "check", "rules", str(DEPLOY / "prometheus" / "alerts.yaml")], check=True)


# -- settings ----------------------------------------------------------------------------------------


def test_the_sample_of_settings_is_read(monkeypatch):
    config = load(str(DEPLOY / "systemd" / "engine.toml"), {}, {})
    assert config.roles == {"operator": ["group:fastnl"]}


def test_the_sample_shows_every_setting_with_its_default(tmp_path):
    parts = re.split(r"^# \[(\w+)\]\n", (DEPLOY / "systemd" / "engine.toml").read_text(), flags=re.MULTILINE)
    text, *rest = parts
    tables = dict(zip(rest[::2], rest[1::2], strict=True))
    shown, *others = (
        dict(re.findall(r"^# (\w+) = (.*?)(?:[ ]+#.*)?$", t, re.MULTILINE)) for t in (text, *tables.values())
    )
    assert set(shown) - {"viewer"} == set(SETTINGS) - {"roles", *TABLES}
    assert tables.keys() == TABLES.keys()
    for kind, table in zip(TABLES.values(), others, strict=True):
        assert set(table) == {f.name for f in fields(kind)}
    examples = ("http", "tcp", "tcp_events", "curve_secret")  # off unless given
    file = tmp_path / "engine.toml"
    file.write_text("\n".join(f"{k} = {v}" for k, v in shown.items() if k in SETTINGS and k not in examples))
    with file.open("a") as f:
        for name, table in zip(tables, others, strict=True):
            f.write(f"\n[{name}]\n" + "\n".join(f"{k} = {v}" for k, v in table.items()))
    assert load(str(file), {}, {}) == Config()
    file.write_text("\n".join(f"{k} = {v}" for k, v in shown.items() if k in examples))
    load(str(file), {}, {})


def test_the_guide_tells_of_every_setting_with_its_default():
    rows = {}
    for line in (ROOT / "docs" / "operations.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].strip("`") in SETTINGS:
            assert cells[0].strip("`") not in rows
            rows[cells[0].strip("`")] = cells
    assert set(rows) == set(SETTINGS)
    flags = {option.name: option for option in main.params}
    for name, (_, default, how, what) in rows.items():
        value = getattr(Config(), name)
        wanted = str(value).lower() if isinstance(value, bool) else f"{value:,}" if isinstance(value, int) else value
        assert (f"`{wanted}`" if wanted else "none") == default, name
        assert what
        assert (f"FASTNL_{name.upper()}" in how) == (name != "roles"), name
        assert (f"`--{name.replace('_', '-')}`" in how) == (name in flags), name


@pytest.mark.parametrize("table", TABLES)
def test_the_guide_tells_of_every_setting_of_the_table_with_its_default(table):
    text = (ROOT / "docs" / "operations.md").read_text().partition(f"| of `[{table}]` |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", text, re.MULTILINE)
    told = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    kind = TABLES[table]
    assert set(told) == {f.name for f in fields(kind)}
    for name, default in told.items():
        value = getattr(kind(), name)
        if isinstance(value, list):
            value = ",".join(value)
        wanted = str(value).lower() if isinstance(value, bool) else value
        assert (f"`{wanted}`" if wanted != "" else "none") == default, name


# -- systemd -----------------------------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_starts_what_there_is():
    [command] = unit()["ExecStart"]
    flags = {option for parameter in main.params for option in parameter.opts}
    assert set(re.findall(r"--[\w-]+", command)) <= flags
    assert command.split()[0].endswith("/fastnl-engine")


def test_the_unit_keeps_the_capabilities_that_the_engine_needs():
    assert unit()["CapabilityBoundingSet"] == [" ".join([*NEEDED.values(), *WANTED.values()])]


def test_the_unit_has_the_folders_of_the_defaults():
    assert Config().state_dir == "/var/lib/" + unit()["StateDirectory"][0]
    assert Config().endpoint.startswith(f"ipc:///run/{unit()['RuntimeDirectory'][0]}/")
    tmpfiles = (DEPLOY / "systemd" / "fastnl.tmpfiles").read_text()
    for folder, mode in (
        ("/run/fastnl", unit()["RuntimeDirectoryMode"]),
        ("/var/lib/fastnl", unit()["StateDirectoryMode"]),
    ):
        assert re.search(rf"^d {folder} +{mode[0]} root fastnl", tmpfiles, re.MULTILINE)


@pytest.mark.parametrize(
    "setting", ["ProtectKernelTunables", "PrivateNetwork", "PrivateUsers", "MountFlags", "ProcSubset"]
)
def test_the_unit_leaves_alone_what_the_engine_works_on(setting):
    assert setting not in unit()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path):
    file = tmp_path / UNIT.name
    # the program itself need not be there
    file.write_text(re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert complaints == []
    secure = ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=34", str(file)]
    done = subprocess.run(secure, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze has no --offline")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


# -- the image ---------------------------------------------------------------------------------------


def steps() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "container" / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word]


def test_the_script_knows_every_step_of_the_recipe():
    script = (DEPLOY / "container" / "test-rootfs.sh").read_text()
    [choices] = re.findall(r"case \$word in\n(.*?)\n    esac", script, re.DOTALL)
    known = {word for line in re.findall(r"^    ([A-Z |]+)\)", choices, re.MULTILINE) for word in line.split(" | ")}
    assert {word for word, _ in steps()} <= known


def test_the_recipe_copies_what_there_is():
    for word, rest in steps():
        if word == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / source).exists() for source in rest.split()[:-1])


def test_the_recipe_gets_what_it_copies():
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [rest.split()[:-1] for word, rest in steps() if word == "COPY" and not rest.startswith("--from")]
    assert sorted(allowed) == sorted(source for sources in copied for source in sources)


@pytest.mark.parametrize("script", ["test-sdist.sh", "container/test-rootfs.sh", "../tests/oldest.sh"])
def test_scripts_can_be_read(script):
    path = DEPLOY / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(path)], check=True)


# -- dependencies ------------------------------------------------------------------------------------


def test_the_oldest_dependencies_are_those_that_are_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra, listed in project["optional-dependencies"].items():
        wanted += [word for word in listed if extra != "lint" and not word.startswith("fastnl[")]
    oldest = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "tests" / "oldest.txt").read_text(), re.MULTILINE))
    bounds = dict(re.fullmatch(r"([\w.-]+)>=([\w.]+).*", word).groups() for word in wanted)
    assert set(oldest) == set(bounds)
    for name, bound in bounds.items():
        # "8" allows 8.0.0 and nothing before it
        padded = [*bound.split("."), "0", "0"][: len(oldest[name].split("."))]
        assert oldest[name].split(".") == padded, name


# -- the chart ---------------------------------------------------------------------------------------

TEMPLATES = sorted((CHART / "templates").iterdir())
ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)


def values() -> dict:
    return yaml.safe_load((CHART / "values.yaml").read_text())


def leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path


def test_the_chart_is_of_this_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == fastnl.__version__
    assert chart["name"] == CHART.name


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_are_balanced(template):
    text = template.read_text()
    assert "{{" not in ACTION.sub("", text) and "}}" not in ACTION.sub("", text)
    depth = 0
    for action in ACTION.findall(text):
        word = action.split()[0]
        depth += (word in ("if", "with", "range", "define", "block")) - (word == "end")
        assert depth >= 0
        assert action.count("(") == action.count(")") and action.count('"') % 2 == 0
    assert depth == 0


def test_templates_use_values_that_there_are_and_all_of_them():
    text = "\n".join(path.read_text() for path in TEMPLATES)
    used = {tuple(path.split(".")) for path in re.findall(r"\.Values\.([\w.]+)", text)}
    for path in used:
        found = values()
        for key in path:
            assert key in found, path
            found = found[key]
    assert {path[0] for path in used} == set(values())
    for table in ("nsm", "ligato", "docker"):
        assert {path for path in used if path[0] == table} == set(leaves(values()[table], (table,))), table


def test_templates_include_what_is_defined():
    text = "\n".join(path.read_text() for path in TEMPLATES)
    assert set(re.findall(r'include "([\w.]+)"', text)) == set(re.findall(r'define "([\w.]+)"', text))


def test_the_charts_settings_and_capabilities_are_the_engines(tmp_path):
    file = tmp_path / "engine.toml"
    file.write_text(values()["config"])
    load(str(file), {}, {})
    added = [f"CAP_{name}" for name in values()["securityContext"]["capabilities"]["add"]]
    assert added == [*NEEDED.values(), *WANTED.values()]
    text = (CHART / "templates" / "daemonset.yaml").read_text()
    variables = re.findall(r"name: FASTNL_(\w+)", text)
    assert {name.lower() for name in variables} <= set(SETTINGS)
    assert values()["paths"]["state"] == Config().state_dir
    assert f"ipc://{values()['paths']['sockets']}/engine.sock" == Config().endpoint


def test_the_chart_sees_namespaces_that_come_later():
    text = (CHART / "templates" / "daemonset.yaml").read_text()
    assert re.search(r"mountPath: /run/netns\n\s+mountPropagation: HostToContainer", text)
    assert values()["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0


MESH = {
    "enabled": True,
    "legacy": {"registrar": "nsm.forwarder-registrar.io.sock"},
    "modern": {"connectTo": "unix:///var/lib/networkservicemesh/nsm.io.sock"},
}
ETCD = {
    "store": "etcd", "endpoints": ["https://etcd-0:2379", "https://etcd-1:2379"], "tls": {"secret": "etcd-client"},
    "user": "fastnl", "passwordSecret": "etcd-password",
}  # fmt: skip
WAYS = {
    "defaults": {},
    "mesh": {"nsm": MESH},
    "mesh without http": {"nsm": MESH, "http": {"enabled": False}},
    "etcd": {"ligato": ETCD, "dnsPolicy": "ClusterFirstWithHostNet"},
    "embedded": {"ligato": {"store": "embedded"}},
    "docker": {"docker": {"socket": "/var/run/docker.sock"}},
    "all": {
        "nsm": MESH, "ligato": ETCD, "docker": {"socket": "/var/run/docker.sock"}, "serviceMonitor": {"enabled": True},
        "imagePullSecrets": [{"name": "registry"}], "podLabels": {"team": "network"},
        "extraVolumes": [{"name": "more", "hostPath": {"path": "/srv"}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/srv"}], "env": [{"name": "FASTNL_QUEUE", "value": "100"}],
    },
}  # fmt: skip
NODE = {"status.hostIP": "127.0.0.1", "spec.nodeName": "node-1"}


@pytest.mark.parametrize("way", WAYS)
def test_what_the_chart_makes_is_whole(way):
    assert list(problems(render(CHART, WAYS[way]))) == []


@pytest.mark.parametrize("way", WAYS)
def test_the_engine_takes_the_charts_settings(way, tmp_path):
    objects = render(CHART, WAYS[way])
    [text] = [thing["data"]["engine.toml"] for thing in objects if thing["kind"] == "ConfigMap"]
    (tmp_path / "engine.toml").write_text(text)
    environ = environment(objects, NODE)
    config = load(str(tmp_path / "engine.toml"), environ, {})
    known = {f"FASTNL_{name.upper()}" for name in SETTINGS}
    known |= {f"FASTNL_LIGATO_{field.name.upper()}" for field in fields(Ligato)}
    assert {name for name in environ if name.startswith("FASTNL_")} <= known
    assert config.http == ("" if "http" in WAYS[way] else "127.0.0.1:9464")
    assert bool(config.nsm) == ("nsm" in WAYS[way])
    assert bool(config.docker) == ("docker" in WAYS[way])
    if WAYS[way].get("ligato") == ETCD:
        assert config.ligato == Ligato(
            store="etcd", endpoints=ETCD["endpoints"], label="node-1", user="fastnl",
            ca="/etc/fastnl-etcd-tls/ca.crt", cert="/etc/fastnl-etcd-tls/tls.crt", key="/etc/fastnl-etcd-tls/tls.key",
            password_file="/etc/fastnl-etcd-password/password",
        )  # fmt: skip


@pytest.mark.skipif(not importlib.util.find_spec("grpc"), reason="grpcio is not installed")
def test_the_forwarder_takes_the_charts_settings():
    from fastnl_engine.adapters.nsm.settings import read

    class Asked(UserDict):
        def __getitem__(self, name):
            asked.add(name)
            return super().__getitem__(name)

    asked: set[str] = set()
    environ = environment(render(CHART, {"nsm": MESH}), NODE)
    settings = read(environ["FASTNL_NSM"], Asked(environ))
    ours = {name for name in environ if name.startswith(("NSM_", "FORWARDER_"))}
    assert ours <= asked | {"NSM_BASEDIR"}
    folder = "/var/lib/networkservicemesh"
    assert settings.listen == f"unix:{folder}/nsm-vppagent.forwarder.sock"
    assert settings.registrar == f"unix:{folder}/nsm.forwarder-registrar.io.sock"
    assert settings.manager == f"unix:{folder}/nsm.io.sock"
    assert (settings.name, settings.tunnel_ip, settings.probes) == ("forwarder-node-1", "127.0.0.1", "127.0.0.1:5555")
    assert (settings.legacy.port, settings.modern.port, settings.lifetime) == (8472, 4789, 600)


def pod(changes: dict) -> dict:
    [found] = [thing for thing in render(CHART, changes) if thing["kind"] == "DaemonSet"]
    return found["spec"]["template"]["spec"]


def test_the_forwarder_sees_processes_and_the_managers_sockets():
    assert not pod({})["hostPID"]
    spec = pod({"nsm": MESH})
    assert spec["hostPID"] and spec["hostNetwork"]
    [container] = spec["containers"]
    folder = "/var/lib/networkservicemesh"
    assert {"name": "mesh", "mountPath": folder} in container["volumeMounts"]
    assert {"name": "mesh", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}} in spec["volumes"]
    # the mesh gets no forwarder that does not serve it, and what hangs is the engine
    assert container["readinessProbe"]["httpGet"] == {"path": "/readiness", "port": 5555}
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_a_client_certificate_and_the_node_are_what_the_values_say():
    tls = {"secret": "ca", "clientCertificate": False}
    environ = environment(render(CHART, {"ligato": {"store": "etcd", "tls": tls, "label": "blue"}}), NODE)
    assert environ["FASTNL_LIGATO_CA"] and environ["FASTNL_LIGATO_LABEL"] == "blue"
    assert "FASTNL_LIGATO_CERT" not in environ and "FASTNL_LIGATO_KEY" not in environ
    with pytest.raises(Failed, match="needs http"):
        render(CHART, {"http": {"enabled": False}, "serviceMonitor": {"enabled": True}})


@pytest.mark.skipif(not shutil.which("helm"), reason="helm is not installed")
@pytest.mark.parametrize("way", WAYS)
def test_helm_makes_the_same_of_it(way, tmp_path):
    changes = tmp_path / "values.yaml"
    changes.write_text(yaml.safe_dump(WAYS[way]))
    given = [str(CHART), "--values", str(changes), "--kube-version", "1.30.0"]
    done = subprocess.run(["helm", "template", "test", *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def sort(things: list[dict]) -> list[str]:
        return sorted(json.dumps(thing, sort_keys=True) for thing in things)

    # the checksum is of the text, and differs where Helm writes the same words otherwise
    assert sort(filter(None, yaml.safe_load_all(done.stdout))) == sort(render(CHART, WAYS[way]))
    subprocess.run(["helm", "lint", "--quiet", *given], check=True)
