// The program on a temporary folder and free ports.

import { execFile, spawn } from "node:child_process";
import { closeSync, cpSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const root = fileURLToPath(new URL("..", import.meta.url));
const run = promisify(execFile);

// No water stands a kilometre high but that of a test.
const rules = `
[[rule]]
key = "e2e-high-water"
tenant = "dsd"
severity = "Severe"
name = { en = "High water (test)", zh-hant = "水位過高（測試）", zh-hans = "水位过高（测试）" }
instruction = { en = "Nothing is to be done.", zh-hant = "無須採取行動。", zh-hans = "无须采取行动。" }
select = { system = "flood" }
when = { above = { raise = 1000, clear = 900 } }

[rule.public_alert]
category = "Met"
urgency = "Immediate"
certainty = "Observed"
headline = { en = "High water in {district} (test)", zh-hant = "{district}水位過高（測試）", zh-hans = "{district}水位过高（测试）" }
description = { en = "The water at {thing} stands at {value}.", zh-hant = "{thing}水位為{value}。", zh-hans = "{thing}水位为{value}。" }
instruction = { en = "Nothing is to be done.", zh-hant = "無須採取行動。", zh-hans = "无须采取行动。" }
`;

function freePort() {
  return new Promise((done, failed) => {
    const probe = createServer();
    probe.once("error", failed);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => done(port));
    });
  });
}

function environment() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("LAMPPOST_")));
}

export class Server {
  /** `more` are further settings, as key=value. */
  constructor(program, more = []) {
    this.program = program;
    this.more = more.flatMap((setting) => ["--set", setting]);
    this.folder = mkdtempSync(join(tmpdir(), "lamppost-e2e-"));
    // A pack must be called as its folder.
    this.pack = join(this.folder, "hong-kong");
    cpSync(join(root, "packs/hong-kong"), this.pack, { recursive: true });
    mkdirSync(join(this.pack, "rules"), { recursive: true });
    writeFileSync(join(this.pack, "rules/zz-e2e.toml"), rules);
  }

  async start() {
    this.httpPort = await freePort();
    this.mqttPort = await freePort();
    this.base = `http://127.0.0.1:${this.httpPort}`;
    const listen = ["--listen", `127.0.0.1:${this.httpPort}`, "--mqtt", `127.0.0.1:${this.mqttPort}`];
    this.settings = ["--data", join(this.folder, "data"), "--pack", this.pack, ...listen, ...this.more];
    const log = openSync(join(this.folder, "server.log"), "w");
    const options = { cwd: root, env: environment(), stdio: ["ignore", log, log] };
    this.process = spawn(this.program, ["serve", ...this.settings], options);
    closeSync(log);
    this.ended = new Promise((done) => this.process.on("exit", (code, signal) => done(code ?? signal)));
    const until = Date.now() + 120_000;
    for (;;) {
      if (this.process.exitCode !== null) throw new Error(`it ended with ${this.process.exitCode}: ${this.tail()}`);
      const ready = await fetch(`${this.base}/health/ready`).then((r) => r.ok, () => false);
      if (ready) return true;
      if (Date.now() > until) throw new Error(`not ready after two minutes: ${this.tail()}`);
      await wait(50);
    }
  }

  tail() {
    return readFileSync(join(this.folder, "server.log"), "utf8").slice(-2_000);
  }

  /** Runs `lamppost admin …` beside the server; the last word it prints. */
  async admin(...args) {
    const { stdout } = await run(this.program, ["admin", ...args, ...this.settings], { cwd: root, env: environment() });
    return stdout.trim().split(/\s+/).at(-1);
  }

  /** A new API key of a department. */
  key(tenant, role) {
    return this.admin("key", "--tenant", tenant, "--role", role, "--name", "e2e");
  }

  /** A one-time link for a new person. */
  invite(tenant, role) {
    return this.admin("invite", "--tenant", tenant, "--role", role);
  }

  async ask(method, path, key, body) {
    const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(body && { "Content-Type": "application/json" }) };
    const response = await fetch(this.base + path, { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text.slice(0, 300)}`);
    return text ? JSON.parse(text) : undefined;
  }

  async stop() {
    this.process.kill("SIGTERM");
    const how = await Promise.race([this.ended, wait(60_000, "still running after a minute")]);
    if (how !== 0) throw new Error(`it ended with ${how}: ${this.tail()}`);
  }

  async remove() {
    if (this.process && this.process.exitCode === null) {
      this.process.kill("SIGKILL");
      await this.ended;
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
