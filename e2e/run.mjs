// The whole program, driven from outside by other people's clients: browsers, SensorThings and MQTT libraries, and kill -9.
//
//   node e2e/run.mjs <program> [pages] [sta] [mqtt] [conform] [outgoing] [doors] [alerts] [tasking] [full] [schema] [validate] [kill] [stores]
//
// `conform` is annex A of 18-088 and of 17-079, as `cargo xtask conform` runs it against any service. `stores` is the program on PostgreSQL, NATS and S3: sta,
// mqtt and conform once more, then stores.py. The program that starts those, `throw-away-stores`
// of crates/testkit, lies beside <program>.
//
// One line for each check, a last line with the sum, and an exit code that says whether all of them passed. E2E_KILLS=100 for the
// long run. `cargo xtask test` installs what is needed (npm ci here, e2e/requirements.txt) and calls this with the program it has built.

import { execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { pages } from "./pages.mjs";
import { Server } from "./server.mjs";
import { Stores } from "./stores.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));
const run = promisify(execFile);
const parts = ["sta", "mqtt", "conform", "pages", "outgoing", "doors", "alerts", "tasking", "full", "schema", "validate", "kill", "stores"];

let passed = 0;
let failed = 0;

function line(text) {
  if (text.startsWith("ok ")) passed += 1;
  if (text.startsWith("FAIL ")) failed += 1;
  console.log(text);
}

/** One line for one check. `run` throws when it is not so. */
async function check(what, run) {
  try {
    const result = await run();
    line(`ok   ${what}`);
    return result;
  } catch (error) {
    line(`FAIL ${what}: ${String(error?.message ?? error).replace(/\s+/g, " ").slice(0, 1_000)}`);
    return undefined;
  }
}

function python() {
  if (process.env.LAMPPOST_PYTHON) return process.env.LAMPPOST_PYTHON;
  const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache");
  const found = join(cache, "lamppost/venv/bin/python3");
  if (!existsSync(found)) throw new Error(`${found} is not there; cargo xtask test makes it from e2e/requirements.txt`);
  return found;
}

/** A script that prints lines of its own; one that ends badly without saying what failed is a failure too. */
async function script(name, args) {
  const before = failed;
  const child = spawn(python(), ["-u", join(here, name), ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout });
  lines.on("line", line);
  const ended = new Promise((done) => child.on("close", done));
  const drained = new Promise((done) => lines.on("close", done));
  const [code] = await Promise.all([ended, drained]);
  if (code !== 0 && failed === before) line(`FAIL ${name}: ended with ${code}`);
}

/** The abstract tests of 18-088: one check, whose failure says which of them failed. */
async function conform(server, key) {
  // Over MQTT come devices: here one that may speak for all Things of its department.
  const device = await server.ask("POST", "/api/devices", key, { tenant: "dsd", key: "conform", kind: "test", things: [], gateway: true });
  const issued = await server.ask("POST", `/api/devices/${device.id}/keys`, key);
  const http = ["--user", "dsd", "--password", key];
  const mqtt = ["--mqtt-user", device.id, "--mqtt-password", issued.key];
  const args = ["-m", "conform", `${server.base}/v1.1`, ...http, ...mqtt];
  const { stdout } = await run(python(), args, { cwd: here, maxBuffer: 16 << 20 }).catch((error) => {
    const failures = String(error.stdout).split("\n").filter((text, at, all) => /failed$/.test(text) || /failed$/.test(all[at - 1] ?? ""));
    throw new Error(failures.join(" ") || error.stdout || error.message);
  });
  // What is built must be declared, or nobody would have tested it.
  const missing = stdout.split("\n").filter((text) => /^[AB]\..*not declared$/.test(text));
  if (missing.length > 0) throw new Error(missing.join(" "));
}

async function main() {
  const [given, ...chosen] = process.argv.slice(2);
  const unknown = chosen.find((part) => !parts.includes(part));
  if (!given || unknown) throw new Error(`usage: node e2e/run.mjs <program> [${parts.join("] [")}]`);
  const program = resolve(given);
  if (!existsSync(program)) throw new Error(`${program} is not there`);
  const wants = (part) => chosen.length === 0 || chosen.includes(part);
  if (["sta", "mqtt", "conform", "pages"].some(wants)) await drive(new Server(program), "on an empty folder", wants);
  if (wants("outgoing")) await script("outgoing.py", [program]);
  if (wants("doors")) await script("doors.py", [program]);
  if (wants("alerts")) await script("alerts.py", [program]);
  if (wants("tasking")) await script("tasking.py", [program]);
  if (wants("full")) await script("full.py", [program]);
  if (wants("schema")) await script("schema.py", [program]);
  if (wants("validate")) await script("validate.py", [program]);
  if (wants("kill")) await script("kill.py", [program]);
  if (wants("stores")) {
    const helper = join(dirname(program), "throw-away-stores");
    if (!existsSync(helper)) throw new Error(`${helper} is not there; cargo build --package testkit --bins`);
    const stores = new Stores(helper);
    try {
      const server = new Server(program, await stores.settings());
      await drive(server, "on PostgreSQL, NATS and S3", (part) => part !== "pages");
    } finally {
      await stores.stop();
    }
    await script("stores.py", [program, helper]);
  }
}

/** Runs the parts that need a server of their own, on this one. */
async function drive(server, where, wants) {
  try {
    const started = await check(`the server starts ${where} and is ready`, () => server.start());
    if (started !== undefined) {
      const dsd = await server.key("dsd", "admin");
      const epd = await server.key("epd", "admin");
      if (wants("sta")) await script("sta.py", [server.base, dsd, epd]);
      if (wants("mqtt")) await script("mqtt.py", [server.base, String(server.mqttPort), "dsd", dsd, "epd", epd]);
      // After mqtt, whose checks count what is told: what this one makes and takes away is told too, for a while.
      if (wants("conform")) await check(`annex A of 18-088 and 17-079 ${where}`, () => conform(server, dsd));
      if (wants("pages")) await pages(server, check);
    }
    await check("the server stops when it is told to", () => server.stop());
  } finally {
    await server.remove();
  }
}

try {
  await main();
} catch (error) {
  line(`FAIL ${error.message}`);
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
