"""Asking a SensorThings service by its root address, and remembering what was made there."""

import base64
import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request

TIMEOUT = 60


class Wrong(Exception):
    """The service does not do what the standard says."""


def need(true, what):
    if not true:
        raise Wrong(what)


def equal(found, wanted, what):
    need(found == wanted, f"{what}: {json.dumps(found, default=str)[:300]} is not {json.dumps(wanted, default=str)[:300]}")


class Answer:
    def __init__(self, status, headers, text, asked):
        self.status, self.headers, self.text, self.asked = status, headers, text, asked

    def json(self):
        try:
            return json.loads(self.text)
        except ValueError:
            raise Wrong(f"{self.asked}: the answer is not JSON: {self.text[:200]!r}") from None

    def has(self, *statuses):
        said = " ".join(self.text.split())[:300]
        need(self.status in statuses, f"{self.asked}: answered {self.status} instead of {' or '.join(map(str, statuses))}: {said}")
        return self


def key(entity_id):
    """An id as it stands in an address: numbers plainly, text in quotes."""
    if isinstance(entity_id, str):
        return "'" + entity_id.replace("'", "''") + "'"
    return str(entity_id)


class Service:
    """One service. `root` ends with the version, such as https://example.org/v1.1."""

    def __init__(self, root, user=None, password=None, token=None):
        self.root = root.rstrip("/")
        self.headers = {}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"
        elif user is not None:
            pair = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            self.headers["Authorization"] = f"Basic {pair}"

    def address(self, path):
        if path.startswith(("http://", "https://")):
            return path
        path, _, query = path.partition("?")
        return f"{self.root}/{path.lstrip('/')}".rstrip("/") + (f"?{urllib.parse.quote(query, safe='$&=(),;:/@*%')}" if query else "")

    def ask(self, method, path, body=None, headers=None):
        url = self.address(path)
        # The credentials are for this service, not for wherever a link leads.
        own = url == self.root or url.startswith((self.root + "/", self.root + "?"))
        headers = {"Accept": "*/*", **(self.headers if own else {}), **(headers or {})}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        asked = f"{method} {urllib.parse.unquote(url)[:300]}"
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return Answer(response.status, response.headers, response.read().decode(errors="replace"), asked)
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read().decode(errors="replace"), asked)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise Wrong(f"{asked}: no answer: {error}") from None

    def get(self, path):
        return self.ask("GET", path).has(200).json()

    def values(self, path):
        page = self.get(path)
        need(isinstance(page.get("value"), list), f"GET {path}: there is no array 'value'")
        return page["value"]

    def every(self, path, pages=200):
        """All pages."""
        rows = []
        while path:
            need(pages > 0, "the next links do not end")
            pages -= 1
            page = self.get(path)
            rows += page["value"]
            path = page.get("@iot.nextLink")
        return rows

    def create(self, path, body):
        """Posts an entity; gives its address and what a GET shows there."""
        answer = self.ask("POST", path, body).has(201)
        link = answer.headers.get("Location")
        need(link, f"{answer.asked}: 201 without a Location header (18-088 section 10.2)")
        return link, self.get(link)

    def declared(self):
        """The requirements that the service says it fulfils, without what they have in common."""
        root = self.get("")
        uris = root.get("serverSettings", {}).get("conformance", [])
        found = [re.sub(r"^.*/spec/iot_sensing/1\.1/req/", "", uri) for uri in uris if "/iot_sensing/1.1/req/" in uri]
        # Classes of Part 2 have names of Part 1 (receive-updates-via-mqtt): they are told apart.
        tasking = [re.sub(r"^.*/spec/iot_tasking/1\.0/req/", "tasking/", uri) for uri in uris if "/iot_tasking/1.0/req/" in uri]
        found += tasking
        return root, found
