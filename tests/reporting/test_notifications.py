"""Word is sent where the environment says, and trouble with it never stops anything."""

import json
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.cli import watch
from flows.cli.watch import Watch, problems
from flows.orchestration.schedules import Schedule
from pipeline.core.paths import Home
from pipeline.reporting import notifications
from pipeline.storage import journal


@pytest.fixture
def webhook():
    """A server that keeps what it is sent."""
    got = []

    class Keep(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args): ...

    server = HTTPServer(("127.0.0.1", 0), Keep)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret", got
    server.shutdown()


@pytest.fixture
def mailbox():
    """The least of an SMTP server."""
    got = []

    class Take(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"220 here\r\n")
            data = None
            for line in self.rfile:
                text = line.decode().rstrip("\r\n")
                if data is not None:
                    if text == ".":
                        got.append("\n".join(data))
                        data = None
                        self.wfile.write(b"250 kept\r\n")
                    else:
                        data.append(text)
                elif text.upper() == "DATA":
                    data = []
                    self.wfile.write(b"354 go on\r\n")
                elif text.upper() == "QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                else:
                    self.wfile.write(b"250 ok\r\n")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Take)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], got
    server.shutdown()
    server.server_close()


def test_a_webhook_gets_the_text_and_what_it_is_about(webhook):
    url, got = webhook
    assert notifications.send("all is lost", {"dataset": "tiny"}, {"NIGHTRECS_NOTIFY_WEBHOOK": url}) == []
    assert got == [{"text": "all is lost", "dataset": "tiny"}]


def test_an_email_has_a_subject_and_all_facts(mailbox):
    port, got = mailbox
    environ = {
        "NIGHTRECS_NOTIFY_EMAIL": "a@example.org, b@example.org",
        "NIGHTRECS_NOTIFY_SMTP": f"smtp://127.0.0.1:{port}",
    }
    assert notifications.send("all is lost\nand more", {"dataset": "tiny"}, environ) == []
    assert "Subject: all is lost" in got[0] and "dataset: tiny" in got[0] and "To: a@example.org" in got[0]


def test_trouble_is_described_without_the_secret():
    environ = {
        "NIGHTRECS_NOTIFY_WEBHOOK": "http://127.0.0.1:9/token-of-mine",
        "NIGHTRECS_NOTIFY_EMAIL": "a@example.org",
        "NIGHTRECS_NOTIFY_SMTP": "smtp://me:secret-of-mine@127.0.0.1:9",
    }
    printed = notifications.send("x", {}, environ)
    assert len(printed) == 2 and not any("of-mine" in line for line in printed)
    assert "begins with http" in notifications.send("x", {}, {"NIGHTRECS_NOTIFY_WEBHOOK": "file:///etc/passwd"})[0]
    assert notifications.send("x", {}, {}) == []


@pytest.fixture
def no_http():
    """A server that answers every connection with a line that is no HTTP, or with nothing at all."""
    answers, server = [b"SSH-2.0-OpenSSH_9\r\n"], socket.create_server(("127.0.0.1", 0))
    held = []

    def serve():
        while True:
            try:
                connection = server.accept()[0]
            except OSError:
                return
            held.append(connection)
            if answers[0]:
                connection.sendall(answers[0])
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{server.getsockname()[1]}", answers
    server.close()


@pytest.mark.parametrize(
    "environ",
    [
        {"NIGHTRECS_NOTIFY_WEBHOOK": "http://PLACE/secret-of-mine"},
        {"NIGHTRECS_NOTIFY": "http://PLACE/secret-of-mine"},
        {"NIGHTRECS_NOTIFY": "json://me:secret-of-mine@PLACE/secret-of-mine"},
        {"NIGHTRECS_NOTIFY_EMAIL": "a@example.org", "NIGHTRECS_NOTIFY_SMTP": "smtp://me:secret-of-mine@PLACE"},
        {"NIGHTRECS_NOTIFY_WEBHOOK": "http://PLACE/secret-of-mine with a space"},
        {"NIGHTRECS_NOTIFY": "http://PLACE/secret-of-mine with a space"},
        {"NIGHTRECS_NOTIFY": "http://[secret-of-mine"},
        {"NIGHTRECS_NOTIFY": "secret-of-mine"},
        {"NIGHTRECS_NOTIFY": "nonsense://secret-of-mine"},
        {"NIGHTRECS_NOTIFY_WEBHOOK": "http://PLACE:port/secret-of-mine"},
        {"NIGHTRECS_NOTIFY_EMAIL": "a@example.org", "NIGHTRECS_NOTIFY_SMTP": "smtp://me:secret-of-mine@host:port"},
    ],
)
def test_whatever_is_configured_nothing_is_raised_and_no_secret_logged(no_http, environ, caplog, capfd):
    environ = {name: value.replace("PLACE", no_http[0]) for name, value in environ.items()}
    (problem,) = notifications.send("all is lost", {"dataset": "tiny"}, environ)
    assert "NIGHTRECS_NOTIFY" in problem
    assert "of-mine" not in problem + caplog.text + "".join(capfd.readouterr())


@pytest.mark.timing
def test_a_target_that_never_answers_costs_seconds_and_the_others_nothing(no_http, webhook, monkeypatch):
    place, answers = no_http
    answers[0] = b""
    monkeypatch.setattr(notifications, "SECONDS", 1)
    environ = {"NIGHTRECS_NOTIFY": f"http://{place}/ json://{place}, {webhook[0]}"}
    started = time.monotonic()
    problems = notifications.send("all is lost", {"dataset": "tiny"}, environ)
    assert time.monotonic() - started < 4 and len(problems) == 2, problems
    assert webhook[1] == [{"text": "all is lost", "dataset": "tiny"}]


def test_apprise_gets_title_and_text(webhook):
    url, got = webhook
    assert (
        notifications.send("all is lost\nand more", {"dataset": "tiny"}, {"NIGHTRECS_NOTIFY": f"json{url[4:]}"}) == []
    )
    assert got[0]["title"] == "all is lost" and "dataset: tiny" in got[0]["message"]


def test_no_message_names_a_user(webhook):
    url, got = webhook
    text = "the night is refused: audit found bad rows: lists: 3 bad rows (e.g. user_id u7, item_id i1)"
    assert notifications.send(text, {}, {"NIGHTRECS_NOTIFY_WEBHOOK": url}) == []
    assert (
        notifications.send("it can't: line 7: 'u7,i1,3' is bad, doesn't fit, user_id=u7", {}, {"NIGHTRECS_NOTIFY": url})
        == []
    )
    assert not any(word in json.dumps(got) for word in ("u7", "i1")) and "audit found bad rows" in got[0]["text"]
    assert got[1]["text"] == "it can't: line 7: '…' is bad, doesn't fit, user_id=…"


def test_the_e_mail_variables_as_an_address():
    assert notifications.mail_url("a@x.org", "smtps://me%40x.org:p%2Fw@mail.x.org:465").startswith(
        "mailtos://me%40x.org:p%2Fw@mail.x.org:465?from=Nightrecs%20%3Cme%40x.org%3E&to=a%40x.org&mode=ssl"
    )
    assert "mode=starttls" in notifications.mail_url("a@x.org", "smtp://me:pw@mail.x.org:587")
    assert notifications.is_known(notifications.mail_url("a@x.org, b@x.org", notifications.LOCAL_SMTP))


def test_a_killed_night_is_notified_once_and_its_recovery_too(run, webhook, monkeypatch):
    url, got = webhook
    monkeypatch.setenv("NIGHTRECS_NOTIFY_WEBHOOK", url)
    night = Schedule(name=run.dataset, dataset=run.dataset, cron="0 3 * * *")
    watching = Watch(run.home, [night])  # `run` has begun, and nobody holds its lock: it was killed
    watching.look()
    watching.next = 0
    watching.look()
    assert len(got) == 1 and "the process ended before the night did" in got[0]["text"]
    journal.close_run(run, "stopped")
    assert problems(run.home, night) == ["nothing is published yet"]


class Watched:
    """A watch of one data set whose state a test sets."""

    def __init__(self, run, monkeypatch):
        self.running: str | None = None
        self.wrong: list[str] = []
        self.age = 5.0
        self.error: Exception | None = None
        self.sent: list[str] = []
        monkeypatch.setattr(watch, "health", self.health)
        monkeypatch.setattr(watch, "about_tables", lambda *_: {"age_hours": self.age, "generated_at": run.started_at})
        monkeypatch.setattr(notifications, "send", lambda text, about: self.sent.append(text) or [])
        self.watch = Watch(run.home, [Schedule(name="shop", dataset="shop", cron="0 3 * * *", max_age=24)])

    def health(self, *_):
        if self.error:
            raise self.error
        return {"running": self.running, "problems": list(self.wrong)}

    def says(self) -> list[str]:
        self.sent.clear()
        self.watch.next = 0
        self.watch.look()
        return [text.removeprefix("nightrecs: shop is ").partition(":")[0] for text in self.sent]


@pytest.fixture
def watched(run, monkeypatch) -> Watched:
    return Watched(run, monkeypatch)


def test_a_problem_is_notified_once_however_long_it_lasts(watched):
    watched.wrong = ["the last night did not publish"]
    assert watched.says() == ["not well"]
    watched.running = "20260102T000000.000Z-bbbb"
    assert watched.says() == [], "a night that runs has not made it well"
    watched.running, watched.wrong, watched.age = None, [], 6.0
    assert watched.says() == ["well"]
    for age in (24.4, 25.5, 49.9):
        watched.age = age
        assert watched.says() == (["not well"] if age < 25 else []), "the same tables are still too old"
    watched.running = "20260103T000000.000Z-cccc"
    assert watched.says() == [], "a night that hangs does not make them newer"


def test_a_night_that_runs_repeats_no_known_problem(watched):
    watched.wrong, watched.age = ["the last night did not publish"], 30.0
    assert watched.says() == ["not well"]
    for running in ("20260102T000000.000Z-bbbb", None, "20260103T000000.000Z-cccc", None):
        watched.running = running
        assert watched.says() == [], "both problems last"
    watched.wrong = ["shop.duckdb is changed", "the last night did not publish"]
    assert watched.says() == ["not well"] and "shop.duckdb is changed" in watched.sent[0]
    watched.wrong.reverse()
    assert watched.says() == [], "the order of problems is no news"
    watched.running, watched.age = "20260104T000000.000Z-dddd", 5.0
    assert watched.says() == [], "its outcome decides"
    watched.running, watched.wrong = None, []
    assert watched.says() == ["well"]


def test_a_text_that_varies_is_one_problem(watched):
    for number in (4711, 4712):
        watched.wrong = [
            f"tables can't be read: held by process {number} (duckdb)",
            f"lock is held in x (PID {number})",
        ]
        assert watched.says() == (["not well"] if number == 4711 else [])
    watched.wrong[1] = "lock is held in y (PID 4712)"
    assert watched.says() == ["not well"]
    for running, name in ((None, ".a.1"), (None, ".a.2"), ("20260102T000000.000Z-bbbb", ".a.3")):
        watched.running, watched.error = running, FileNotFoundError(name)
        assert watched.says() == (["not well"] if name == ".a.1" else [])
    watched.error = None
    assert watched.says() == [], "a night runs"
    watched.running = None
    assert watched.says() == ["not well"] and "can't be read: FileNotFoundError" not in watched.sent[0]


def test_an_error_while_watching_is_reported_and_ends_nothing(run, monkeypatch):
    def gone(*_):
        raise FileNotFoundError("run.json")

    monkeypatch.setattr(watch, "health", gone)
    sent: list[str] = []
    monkeypatch.setattr(notifications, "send", lambda text, about: sent.append(text) or [])
    Watch(run.home, [Schedule(name="shop", dataset="shop", cron="0 3 * * *")]).look()
    assert len(sent) == 1 and "can't be read: FileNotFoundError" in sent[0]


def test_a_data_set_without_nights_is_no_trouble(tmp_path):
    assert problems(Home(tmp_path), Schedule(name="new", dataset="new", cron="0 3 * * *")) == []
