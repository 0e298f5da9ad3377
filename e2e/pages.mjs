// Pages as people meet them: three languages, a phone and a desk, a keyboard, no scripts. axe looks for what shuts people out.

import { execFile } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { chromium } from "playwright-core";

import { actuators } from "./actuators.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const shots = fileURLToPath(new URL("screenshots", import.meta.url));
const languages = { en: "en-HK", "zh-hant": "zh-Hant-HK", "zh-hans": "zh-Hans-HK" };
const windows = { phone: { width: 375, height: 800 }, desk: { width: 1280, height: 900 } };
const flags = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // The map is drawn in software here.
  "--enable-unsafe-swiftshader",
];
const standards = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
/** Which department has the things of a system; see packs/hong-kong/things. */
const owners = { flood: "dsd", lamppost: "hyd", air: "epd", weather: "hko", parking: "td", toilet: "fehd", hepa: "ha" };

function assert(truth, why) {
  if (!truth) throw new Error(why);
}

/** A value that fits a Datastream's type, or nothing. */
function fitting(type) {
  if (type.endsWith("OM_Measurement")) return 21.5;
  if (type.endsWith("OM_CountObservation")) return 3;
  if (type.endsWith("OM_TruthObservation")) return true;
  return undefined;
}

/** A latest value for everything, a day of one series, and one alarm. */
async function seed(server) {
  const now = Date.now();
  let shown;
  for (const [system, tenant] of Object.entries(owners)) {
    const key = await server.key(tenant, "admin");
    const filter = encodeURIComponent(`properties/system eq '${system}'`);
    const expand = encodeURIComponent("Datastreams($select=id,observationType;$orderby=id asc)");
    const things = await server.ask("GET", `/v1.1/Things?$filter=${filter}&$expand=${expand}&$orderby=id%20asc&$top=100`, key);
    // What is computed takes nothing from others.
    const computed = new Set();
    if ((await server.ask("GET", "/api/derived", key)).derived.length > 0) {
      for (const stream of things.value.flatMap((thing) => thing.Datastreams)) {
        const { origin } = await server.ask("GET", `/api/datastreams/${stream["@iot.id"]}/provenance`, key);
        if (origin === "derived") computed.add(stream["@iot.id"]);
      }
    }
    const groups = things.value.flatMap((thing) =>
      thing.Datastreams.flatMap((stream) => {
        const value = fitting(stream.observationType);
        if (value === undefined || computed.has(stream["@iot.id"])) return [];
        const dataArray = [[new Date(now - 60_000).toISOString(), value]];
        return [{ Datastream: { "@iot.id": stream["@iot.id"] }, components: ["phenomenonTime", "result"], dataArray }];
      }),
    );
    assert(groups.length > 0, `the pack has no Datastreams of the system ${system}`);
    await server.ask("POST", "/v1.1/CreateObservations", key, groups);
    if (system !== "flood") continue;
    const thing = things.value[0];
    const stream = thing.Datastreams[0]["@iot.id"];
    const flow = [...computed][0];
    assert(flow, "the pack computes nothing of the system flood");
    const wave = (n) => Math.round((1.2 + Math.sin(n / 20) / 2) * 1_000) / 1_000;
    const day = Array.from({ length: 288 }, (_, n) => [new Date(now - 86_400_000 + n * 300_000).toISOString(), wave(n)]);
    const series = { Datastream: { "@iot.id": stream }, components: ["phenomenonTime", "result"], dataArray: day };
    await server.ask("POST", "/v1.1/CreateObservations", key, [series]);
    await server.ask("POST", `/v1.1/Datastreams(${stream})/Observations`, key, { result: 1_500, phenomenonTime: new Date(now).toISOString() });
    shown = { thing: thing["@iot.id"], stream, computed: flow, key };
  }
  const until = Date.now() + 30_000;
  for (;;) {
    const { alarms } = await server.ask("GET", `/api/alarms?rule=e2e-high-water&thing=${shown.thing}`, shown.key);
    const { alerts } = await server.ask("GET", "/api/alerts?rule=e2e-high-water", shown.key);
    if (alarms.length > 0 && alerts.length > 0) return { ...shown, alarm: alarms[0].id, warning: alerts[0].message.identifier };
    assert(Date.now() < until, "the rule raised no alarm within 30 s");
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** A vessel that goes to the east for an hour, falls silent, jumps once and casts twice; its fixes and samples come as a device would send them. */
async function sail(server) {
  const key = await server.key("epd", "admin");
  const expand = encodeURIComponent("Datastreams($select=id,observationType,name;$orderby=id asc)");
  const filter = encodeURIComponent("properties/key eq 'vessel-harbour'");
  const { value } = await server.ask("GET", `/v1.1/Things?$filter=${filter}&$expand=${expand}`, key);
  const vessel = value[0];
  const track = vessel.Datastreams.find((d) => d.observationType.endsWith("OM_GeometryObservation"))["@iot.id"];
  const oxygen = vessel.Datastreams.find((d) => d.name === "Dissolved oxygen")["@iot.id"];
  const now = Date.now();
  const at = (n) => new Date(now - 7_200_000 + n * 30_000).toISOString();
  const fix = (n) => [at(n), { type: "Point", coordinates: [114.13 + n * 0.0004, n === 40 ? 22.9 : 22.293 + 0.002 * Math.sin(n / 9)] }];
  const fixes = Array.from({ length: 240 }, (_, n) => n).filter((n) => n < 120 || n > 160).map(fix);
  await server.ask("POST", "/v1.1/CreateObservations", key, [{ Datastream: { "@iot.id": track }, components: ["phenomenonTime", "result"], dataArray: fixes }]);
  const sample = (n, depth) => [at(n), 6.4 - depth / 3, { depth }];
  const samples = [10, 180].flatMap((begin) => Array.from({ length: 12 }, (_, n) => sample(begin + n, n + 1)));
  await server.ask("POST", "/v1.1/CreateObservations", key, [{ Datastream: { "@iot.id": oxygen }, components: ["phenomenonTime", "result", "parameters"], dataArray: samples }]);
  const found = await server.ask("GET", `/api/things/${vessel["@iot.id"]}/track?from=${at(-1)}`, key);
  assert(found.geometry.coordinates.length === 2, `a track of ${found.geometry.coordinates.length} pieces`);
  assert(found.properties.suspect.length === 1, `${found.properties.suspect.length} impossible fixes`);
  return { vessel: vessel["@iot.id"], oxygen };
}

/** The map plays back what was sent: by button and by key. */
async function played(page, server) {
  await page.setViewportSize(windows.desk);
  await page.goto(`${server.base}/en/map/playback?system=vessel`, { waitUntil: "load" });
  await island(page, "map", ".map-time input[type=range]");
  const slider = page.locator(".map-time input[type=range]");
  await slider.focus();
  await page.keyboard.press("Home");
  const first = Number(await slider.inputValue());
  await page.keyboard.press("ArrowRight");
  assert(Number(await slider.inputValue()) > first, "the arrow key does not move it");
  await page.locator(".map-time select").selectOption("3600");
  await page.locator(".map-time button").focus();
  await page.keyboard.press("Enter");
  await page.waitForFunction(([was]) => Number(document.querySelector(".map-time input").value) > was + 600_000, [first], { timeout: 20_000 });
  await page.keyboard.press("Enter");
  assert((await page.locator(".map-time button").innerText()) === "Play", "it does not stop");
  const text = await slider.getAttribute("aria-valuetext");
  assert(/\d/.test(text ?? ""), `the slider says '${text}'`);
}

/** Opens an address and notes what must not happen meanwhile. */
async function open(page, server, path) {
  const wrong = [];
  const origin = new URL(server.base).origin;
  const said = (message) => message.type() === "error" && wrong.push(`console: ${message.text()} ${message.location().url}`);
  const threw = (error) => wrong.push(`script: ${error.message}`);
  const asked = (request) => {
    const url = new URL(request.url());
    if (!["data:", "blob:", "about:"].includes(url.protocol) && url.origin !== origin) wrong.push(`another host: ${url.href}`);
  };
  page.on("console", said).on("pageerror", threw).on("request", asked);
  const response = await page.goto(server.base + path, { waitUntil: "load" });
  const done = () => {
    page.off("console", said).off("pageerror", threw).off("request", asked);
    return wrong;
  };
  return { status: response.status(), done };
}

async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate((tags) => globalThis.axe.run(document, { runOnly: tags, resultTypes: ["violations"] }), standards);
  return found.violations
    .filter((v) => v.impact === "serious" || v.impact === "critical")
    .map((v) => `axe ${v.id} (${v.nodes.length}): ${v.nodes[0].target.join(" ")}: ${v.nodes[0].failureSummary}`);
}

/** Islands start when they come near the window. */
async function island(page, name, drawn) {
  await page.locator(`[data-island="${name}"]`).first().evaluate((element) => element.scrollIntoView());
  await page.waitForSelector(drawn, { state: "attached", timeout: 20_000 });
}

async function look(page, server, { path, name, language, size, status = 200, named = false }) {
  // All that is wrong with a page is said at once.
  const wrong = [];
  const expect = (truth, why) => truth || wrong.push(why);
  await page.setViewportSize(windows[size]);
  const opened = await open(page, server, `/${language}${path}`);
  assert(opened.status === status, `${opened.status}, not ${status}`);
  const drawn = { home: ["map", "canvas.maplibregl-canvas"], map: ["map", "canvas.maplibregl-canvas"], playback: ["map", "canvas.maplibregl-canvas"], datastream: ["chart", ".uplot canvas"] }[name];
  if (drawn) await island(page, ...drawn).catch((error) => wrong.push(`the ${drawn[0]} does not start: ${error.message}`));
  const headings = await page.locator("h1").allTextContents();
  expect(headings.length === 1 && headings[0].trim() !== "", `h1: ${JSON.stringify(headings)}`);
  const told = await page.getAttribute("html", "lang");
  expect(told === languages[language], `lang=${told}`);
  const heading = headings[0] ?? "";
  // A page that is called like a person or a device keeps that name.
  if (language !== "en" && !named) expect(/\p{Script=Han}/u.test(heading), `the heading is not Chinese: ${heading}`);
  const untold = await page.evaluate(() => document.body.innerText.match(/\{[a-z_-]+\}|\b(?:page|nav|alarm|rule|silence|board|wall|tile|thing|home|map|operators|device|operations|status|form|tasking)\.[a-z-]+\b/)?.[0]);
  expect(!untold, `a text is missing: ${untold}`);
  wrong.push(...(await violations(page)));
  await page.screenshot({ path: join(shots, `${name}-${language}-${size}.png`) });
  if (size === "phone") {
    await page.setViewportSize({ width: 320, height: 640 });
    // A chart draws itself again when its place has changed, a moment later.
    const fits = await page.waitForFunction(() => document.documentElement.scrollWidth <= 320, null, { timeout: 5_000 }).catch(() => undefined);
    const widest = () => [...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > 321).slice(0, 3).map((e) => `${e.tagName}.${e.className}`);
    expect(fits, `at 320 pixels the page must be scrolled sideways: ${fits ? "" : await page.evaluate(widest)}`);
  }
  // The console's own line about an address that is meant to be missing is no error of the page.
  wrong.push(...opened.done().filter((w) => status === 200 || !w.includes("Failed to load resource")));
  assert(wrong.length === 0, wrong.join("; "));
}

async function keyboard(page, server, path) {
  await page.setViewportSize(windows.desk);
  await page.goto(server.base + path, { waitUntil: "load" });
  const active = (read) => page.evaluate(read);
  await page.keyboard.press("Tab");
  const first = await active(() => ({ skip: document.activeElement?.matches("a.skip"), box: document.activeElement?.getBoundingClientRect().toJSON() }));
  assert(first.skip, "the first stop is not the skip link");
  assert(first.box.top >= 0 && first.box.left >= 0 && first.box.width > 10, "the skip link is not seen when it has the focus");
  await page.keyboard.press("Enter");
  assert(await active(() => document.activeElement?.id === "main"), "the skip link does not lead to the content");
  await page.goto(server.base + path, { waitUntil: "load" });
  for (let stop = 0; stop < 6; stop += 1) {
    await page.keyboard.press("Tab");
    const inside = await active(() => {
      const at = document.activeElement;
      const style = getComputedStyle(at);
      return at.closest("nav.sections") && { seen: style.outlineStyle !== "none" || style.boxShadow !== "none", href: at.href };
    });
    if (!inside) continue;
    assert(inside.seen, "one does not see where the focus is");
    // Not `waitForURL`: the link may lead to the page that is open, and the next visit would meet a navigation that is still on its way.
    await Promise.all([page.waitForNavigation({ waitUntil: "load" }), page.keyboard.press("Enter")]);
    assert(page.url() === inside.href, `${page.url()} instead of ${inside.href}`);
    return;
  }
  throw new Error("six times Tab does not reach the main navigation");
}

async function join_(page, link, account, password) {
  await page.goto(link);
  await page.fill("input[name=name]", "Chan Tai Man");
  await page.fill("input[name=account]", account);
  await page.fill("input[name=password]", password);
  await Promise.all([page.waitForNavigation(), page.click("main form button")]);
}

async function signIn(page, server, account, password, language = "en") {
  await page.goto(`${server.base}/${language}/sign-in`);
  await page.fill("input[name=account]", account);
  await page.fill("input[name=password]", password);
  await Promise.all([page.waitForNavigation(), page.click("main form button")]);
  return page.url();
}

/** Alarm raised → acknowledged → undone on its page, without scripts. */
async function acknowledge(page, server, shown, said) {
  await page.goto(`${server.base}/zh-hant/alarms/${shown.alarm}`);
  await page.fill("textarea[name=comment]", said);
  await Promise.all([page.waitForNavigation(), page.click("button[name=deed][value=acknowledge]")]);
  assert(page.url().endsWith(`/zh-hant/alarms/${shown.alarm}`), `one is led to ${page.url()}`);
  assert((await page.locator("main").innerText()).includes(said), "the comment is not in the history");
  const after = await server.ask("GET", `/api/alarms/${shown.alarm}`, shown.key);
  assert(after.alarm.state === "acknowledged", `the state is ${after.alarm.state}`);
  const last = after.history.at(-1);
  assert(last.kind === "acknowledged" && last.comment === said, JSON.stringify(last));
}

/** The same form sent twice, as an impatient thumb does. */
async function twice(context, server, shown) {
  const [one, two] = [await context.newPage(), await context.newPage()];
  const address = `${server.base}/en/alarms/${shown.alarm}`;
  await one.goto(address);
  await two.goto(address);
  await Promise.all([one.waitForNavigation(), one.click("button[name=deed][value=unacknowledge]")]);
  const [response] = await Promise.all([two.waitForNavigation(), two.click("button[name=deed][value=unacknowledge]")]);
  assert(response.status() === 412, `the second is answered ${response.status()}, not 412`);
  assert((await two.locator("h1").innerText()).trim() !== "", "without a page that says so");
  const after = await server.ask("GET", `/api/alarms/${shown.alarm}`, shown.key);
  const undone = after.history.filter((entry) => entry.kind === "unacknowledged");
  assert(undone.length === 1, `it was undone ${undone.length} times`);
  await one.close();
  await two.close();
}

/** Live values come to an open page by themselves. */
async function live(page, server, shown) {
  await page.setViewportSize(windows.desk);
  const stream = page.waitForRequest((request) => request.url().includes("/api/live"));
  await page.goto(`${server.base}/en/datastreams/${shown.stream}`, { waitUntil: "load" });
  await stream;
  // Below the alarm's level and above the one that ends it: the alarm is looked at later.
  const value = 910 + Math.floor(Math.random() * 80);
  const post = () => server.ask("POST", `/v1.1/Datastreams(${shown.stream})/Observations`, shown.key, { result: value, phenomenonTime: new Date().toISOString() });
  await post();
  const shows = (text) => [...document.querySelectorAll(`.live[data-datastream]`)].some((e) => e.innerText.includes(text));
  // The connection may have opened just after the value came: values go on coming, as they do.
  const again = setInterval(() => post().catch(() => {}), 2_000);
  try {
    await page.waitForFunction(shows, String(value), { timeout: 20_000 });
  } finally {
    clearInterval(again);
  }
}

/** Presses Tab until the focus is on what is meant, as somebody without a mouse does. */
async function tabTo(page, selector) {
  for (let stop = 0; stop < 120; stop += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate((sought) => document.activeElement?.matches(sought), selector)) {
      const seen = await page.evaluate(() => {
        const style = getComputedStyle(document.activeElement);
        return style.outlineStyle !== "none" || style.boxShadow !== "none";
      });
      assert(seen, `one does not see that the focus is on ${selector}`);
      return;
    }
  }
  throw new Error(`120 times Tab does not reach ${selector}`);
}

async function press(page, key) {
  await Promise.all([page.waitForNavigation(), page.keyboard.press(key)]);
}

/** A device is registered, given a key, and its first reading seen, without a mouse; the reading is sent by the line that the page shows. */
async function registerByKeyboard(page, server) {
  await page.setViewportSize(windows.desk);
  await page.goto(`${server.base}/en/devices`);
  await tabTo(page, "a[href*='/devices/new']");
  await press(page, "Enter");
  const key = `e2e-${Date.now()}`;
  await tabTo(page, "input[name=key]");
  await page.keyboard.type(key);
  await tabTo(page, "input[name=kind]");
  await page.keyboard.type("flood-station");
  await tabTo(page, "input[name=q]");
  await page.keyboard.type("Ping Che");
  await press(page, "Enter");
  assert((await page.inputValue("input[name=key]")) === key, "looking for a place loses what was typed");
  assert(new URL(page.url()).pathname === "/en/devices/new", "Enter in the search box registers the device");
  await tabTo(page, "input[name=thing]");
  await page.keyboard.press("Space");
  await tabTo(page, "button[value=save]");
  await press(page, "Enter");
  assert((await page.locator("main").innerText()).includes("Never seen"), `one is led to ${page.url()}`);
  const address = new URL(page.url()).pathname;
  await tabTo(page, "form[action$='/keys'] button");
  await press(page, "Enter");
  const line = await page.locator("#line").innerText();
  assert(line.startsWith("mosquitto_pub -h 127.0.0.1 "), line);
  await promisify(execFile)("sh", ["-c", line], { timeout: 20_000 });
  await page.goto(server.base + address);
  const said = await page.locator("main").innerText();
  assert(said.includes("Healthy") && said.includes("21.5"), `the reading does not turn up: ${said.slice(0, 400)}`);
  assert(!(await page.content()).includes(line), "the key is shown twice");
  await page.goto(`${server.base}/en/devices?q=${key}&state=healthy`);
  assert((await page.locator("main tbody").innerText()).includes(key), "it is not on the desk");
  return address.replace("/en", "");
}

/** All the officer's pages, also as they answer a form with mistakes. */
async function office(browser, server, shown, check, visit) {
  const password = "rain on a tin roof";
  const account = `admin-${Date.now()}`;
  const context = await browser.newContext();
  const desk = await context.newPage();
  await check("pages: an administrator joins", async () => join_(desk, await server.invite("city", "admin"), account, password));
  const dsd = await browser.newContext({ javaScriptEnabled: false });
  const manager = await dsd.newPage();
  await check("pages: a device manager joins", async () => join_(manager, await server.invite("dsd", "device-manager"), `manager-${Date.now()}`, password));
  const device = await check("pages: a device, from the form to its first reading, by keyboard and without scripts", () => registerByKeyboard(manager, server));
  if (!device) return;
  const feed = await server.ask("GET", "/api/connectors", await server.key("hko", "viewer"));
  await desk.goto(`${server.base}/en/operators?tenant=dsd`);
  const person = new URL(await desk.locator("a[href*='/operators/people/']").first().getAttribute("href"), server.base).pathname;
  await visit(desk, [
    { name: "operations", path: "/operations" },
    { name: "duty", path: "/dashboards/duty" },
    { name: "dashboard-new", path: "/dashboards/new?from=toilets" },
    { name: "walls", path: "/walls" },
    { name: "feed", path: `/operations/feeds/${feed.value[0].key}` },
    { name: "operators", path: "/operators?tenant=dsd" },
    { name: "person", path: person.replace("/en", ""), named: true },
    { name: "password", path: "/account/password" },
    { name: "status-signed-in", path: "/status" },
  ]);
  const scripted = await browser.newContext({ storageState: await dsd.storageState() });
  const page = await scripted.newPage();
  await visit(page, [
    { name: "devices", path: "/devices" },
    { name: "devices-none", path: "/devices?state=refused" },
    { name: "device", path: device, named: true },
    { name: "device-new", path: "/devices/new" },
    { name: "device-change", path: `${device}/change` },
    { name: "device-sheet", path: "/devices/sheet" },
    { name: "device-place", path: "/devices/place" },
    { name: "devices-low", path: "/devices?condition=low-battery" },
    { name: "campaigns", path: "/devices/campaigns" },
    { name: "campaign-new", path: "/devices/campaigns/new" },
    { name: "datastream-officer", path: `/datastreams/${shown.stream}` },
    { name: "derived", path: `/datastreams/${shown.computed}` },
  ]);
  for (const { name, path } of [{ name: "devices", path: "/devices" }, { name: "device", path: device }]) {
    await check(`pages: ${name} by keyboard`, () => keyboard(page, server, `/en${path}`));
  }
  for (const language of Object.keys(languages)) {
    await check(`pages: a form with mistakes, ${language}`, async () => {
      await page.setViewportSize(windows.phone);
      await page.goto(`${server.base}/${language}/devices/new`);
      await page.evaluate(() => document.querySelector("main form").noValidate = true);
      await page.fill("input[name=name]", "橋下");
      await Promise.all([page.waitForNavigation(), page.click("button[value=save]")]);
      assert((await page.locator(".error-summary a").count()) === 2, "the summary does not name both mistakes");
      assert((await page.inputValue("input[name=name]")) === "橋下", "what was typed is lost");
      const found = await violations(page);
      assert(found.length === 0, found.join("; "));
      await page.screenshot({ path: join(shots, `device-wrong-${language}-phone.png`), fullPage: true });
    });
    await check(`pages: a new key, ${language}`, async () => {
      await page.goto(`${server.base}/${language}${device}`);
      await Promise.all([page.waitForNavigation(), page.click("form[action$='/keys'] button")]);
      const found = await violations(page);
      assert(found.length === 0, found.join("; "));
      await page.setViewportSize({ width: 320, height: 640 });
      assert(await page.evaluate(() => document.documentElement.scrollWidth <= 320), "the line makes the page scroll sideways");
      await page.setViewportSize(windows.phone);
    });
  }
  const dark = await browser.newContext({ colorScheme: "dark", storageState: await context.storageState() });
  const night = await dark.newPage();
  for (const path of ["/operations", "/dashboards/duty", "/dashboards/new?from=toilets", "/operators?tenant=dsd", "/devices?tenant=dsd", "/status", "/account"]) {
    await check(`pages: ${path} in the dark`, async () => {
      await night.goto(`${server.base}/en${path}`);
      const found = await violations(night);
      assert(found.length === 0, found.join("; "));
    });
  }
  await check("pages: a password that was forgotten is set by a link from the command line", async () => {
    const link = await server.admin("reset", "--account", account);
    const other = await browser.newContext();
    const anybody = await other.newPage();
    const path = new URL(link).pathname.replace("/en", "");
    for (const language of Object.keys(languages)) {
      for (const size of Object.keys(windows)) await look(anybody, server, { name: "reset", path, language, size });
    }
    await anybody.goto(link);
    await anybody.fill("input[name=password]", "snow on a warm roof");
    await Promise.all([anybody.waitForNavigation(), anybody.click("main form button")]);
    assert(new URL(anybody.url()).pathname === "/en/account", anybody.url());
    const used = await anybody.goto(link);
    assert(used.status() === 404, `the used link is answered ${used.status()}`);
    await desk.goto(`${server.base}/en/account`);
    assert(new URL(desk.url()).pathname === "/en/sign-in", "whoever was signed in with the old password still is");
    await other.close();
  });
  for (const one of [context, dsd, scripted, dark]) await one.close();
}

/** A screen on a wall: paired by the link that an officer is shown, going on by itself, and loud when nobody answers. */
async function wall(browser, server, check, visit) {
  const context = await browser.newContext();
  const officer = await context.newPage();
  await check("pages: who may hang a wall joins", async () => join_(officer, await server.invite("ha", "admin"), `walls-${Date.now()}`, "rain on a tin roof"));
  const link = await check("pages: a wall is made, and its link is shown once", async () => {
    await officer.goto(`${server.base}/zh-hant/walls`);
    await officer.fill("input[name=name]", "五號病房");
    await officer.check("input[name=board][value=hepa]");
    await officer.check("input[name=board][value=air]");
    await officer.fill("input[name=every]", "5");
    await Promise.all([officer.waitForNavigation(), officer.click("main form.long button")]);
    const found = await violations(officer);
    assert(found.length === 0, found.join("; "));
    await officer.screenshot({ path: join(shots, "walls-made-zh-hant.png"), fullPage: true });
    return officer.locator(".once code").first().innerText();
  });
  if (!link) return;
  const screen = await browser.newContext({ viewport: { width: 1920, height: 1080 }, reducedMotion: "reduce" });
  const page = await screen.newPage();
  await check("pages: a screen is paired by its link, whose code leaves the address", async () => {
    const sent = [];
    page.on("request", (request) => sent.push(request.url()));
    await page.goto(`http://${link}`);
    await page.waitForSelector("body.wall", { timeout: 20_000 });
    const code = link.split("#")[1];
    assert(!page.url().includes(code) && !sent.some((url) => url.includes(code)), "the code is in an address that was sent");
    const found = await violations(page);
    assert(found.length === 0, found.join("; "));
    await page.screenshot({ path: join(shots, "wall-zh-hant.png") });
  });
  await check("pages: it goes on to the next dashboard by itself", async () => {
    const before = await page.locator("h1").innerText();
    await page.waitForFunction((was) => document.querySelector("h1").innerText !== was, before, { timeout: 20_000 });
    await page.screenshot({ path: join(shots, "wall-next-zh-hant.png") });
  });
  await check("pages: it says loudly when it has lost contact, and no longer when it is back", async () => {
    await page.locator("h1").waitFor();
    await screen.setOffline(true);
    await page.waitForSelector(".board.lost .contact-lost:visible", { timeout: 180_000 });
    assert(/\d\d:\d\d:\d\d/.test(await page.locator(".contact-lost").innerText()), "it does not say since when");
    await page.screenshot({ path: join(shots, "wall-lost-zh-hant.png") });
    const found = await violations(page);
    assert(found.length === 0, found.join("; "));
    await screen.setOffline(false);
    await page.waitForSelector(".board:not(.lost)", { timeout: 60_000 });
    assert(await page.locator(".contact-lost").isHidden(), "it goes on saying so");
  });
  await check("pages: a wall that is revoked shows nothing more", async () => {
    await officer.goto(`${server.base}/en/walls`);
    await Promise.all([officer.waitForNavigation(), officer.click("form[action$='/revoke'] button")]);
    await page.waitForSelector(".board.lost .contact-lost:visible", { timeout: 60_000 });
    const answer = await page.goto(`${server.base}/en/wall`);
    assert(answer.status() === 200 && (await page.locator("input[name=code]").count()) === 1, "it does not ask for another code");
  });
  await fence(officer, server, check, visit);
  await screen.close();
  await context.close();
}

/** An officer draws a fence, after a mistake; draws it anew, by its corners; and removes it. */
async function fence(officer, server, check, visit) {
  await check("pages: a fence is drawn, drawn anew and removed", async () => {
    const send = (button) => Promise.all([officer.waitForNavigation(), officer.click(button)]);
    const submit = "form.long button.button";
    await officer.setViewportSize(windows.desk);
    await officer.goto(`${server.base}/en/fences`);
    const typed = { key: "e2e-yard", "name-en": "Yard", "name-zh-hant": "場地", "name-zh-hans": "场地", kind: "yard" };
    for (const [name, value] of Object.entries(typed)) await officer.fill(`[name='${name}']`, value);
    await officer.fill("[name='circle-lat']", "22.3");
    await officer.fill("[name='circle-lon']", "east");
    await officer.fill("[name='circle-radius']", "150");
    await send(submit);
    assert((await officer.locator("[name='circle-lon'][aria-invalid='true']").count()) === 1, "the field that is wrong does not say so");
    assert((await officer.inputValue("[name='name-zh-hant']")) === "場地", "what was typed is gone");
    const found = await violations(officer);
    assert(found.length === 0, found.join("; "));
    await officer.screenshot({ path: join(shots, "fence-wrong-en.png"), fullPage: true });
    await officer.fill("[name='circle-lon']", "114.17");
    await send(submit);
    const drawn = new URL(officer.url()).pathname;
    assert(drawn === "/en/fences/ha.e2e-yard", drawn);
    assert((await officer.locator("svg.track-drawing").count()) === 1, "its outline is not shown");
    await officer.check("[name='shape'][value='outline']");
    await officer.fill("[name='outline']", "22.30, 114.17\n22.31, 114.17\n22.31, 114.18");
    const before = Number(await officer.inputValue("[name='revision']"));
    await send(submit);
    assert((await officer.inputValue("[name='outline']")).split("\n").length === 3, "the corners do not come back");
    assert(Number(await officer.inputValue("[name='revision']")) === before + 1, "it was not drawn anew");
    await visit(officer, [{ name: "fence", path: "/fences/ha.e2e-yard" }]);
    await officer.goto(`${server.base}${drawn}`);
    await officer.screenshot({ path: join(shots, "fence-en.png"), fullPage: true });
    await send("form[action$='/remove'] button");
    assert(new URL(officer.url()).pathname === "/en/fences", officer.url());
    assert((await officer.locator(`a[href='${drawn}']`).count()) === 0, "it is still there");
  });
}

/** A new value comes to an open dashboard, and what somebody has opened stays open. */
async function boardLive(page, server, shown) {
  await page.setViewportSize(windows.desk);
  await page.goto(`${server.base}/en/dashboards/floods`, { waitUntil: "load" });
  await page.locator(".tile details summary").first().click();
  // Below the alarm's level and above the one that ends it: the alarm is looked at later.
  const value = 910 + Math.floor(Math.random() * 80);
  await server.ask("POST", `/v1.1/Datastreams(${shown.stream})/Observations`, shown.key, { result: value, phenomenonTime: new Date().toISOString() });
  await page.mouse.click(1, 1);
  await page.evaluate(() => document.activeElement?.blur());
  const text = String(value);
  await page.waitForFunction((sought) => document.querySelector(".tiles").innerText.includes(sought), text, { timeout: 40_000 });
  assert(await page.locator(".tile details").first().evaluate((d) => d.open), "what was opened has closed");
}

export async function pages(server, check) {
  mkdirSync(shots, { recursive: true });
  const shown = await check("pages: values for every thing, a day of one series, an alarm", () => seed(server));
  if (!shown) return;
  const voyage = await check("pages: a vessel goes its way, with a gap, an impossible fix and two casts", () => sail(server));
  if (!voyage) return;
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: flags });
  try {
    const everybody = await browser.newContext();
    const page = await everybody.newPage();
    const open_ = [
      { name: "home", path: "" },
      { name: "map", path: "/map" },
      { name: "things", path: "/things" },
      { name: "thing", path: `/things/${shown.thing}` },
      { name: "datastream", path: `/datastreams/${shown.stream}` },
      { name: "track", path: `/things/${voyage.vessel}/track`, named: true },
      { name: "playback", path: "/map/playback?system=vessel" },
      { name: "fences", path: "/fences" },
      { name: "profiles", path: `/datastreams/${voyage.oxygen}/profiles` },
      { name: "warnings", path: "/alerts" },
      { name: "warning", path: `/alerts/${shown.warning}` },
      // Alarms are their department's; the page says so and leads to signing in.
      { name: "alarms", path: "/alarms", status: 401 },
      { name: "sign-in", path: "/sign-in" },
      { name: "status", path: "/status" },
      { name: "dashboards", path: "/dashboards" },
      { name: "toilets", path: "/dashboards/toilets" },
      { name: "floods", path: "/dashboards/floods" },
      { name: "parking", path: "/dashboards/parking" },
      { name: "whole-screen", path: "/dashboards/toilets?wall=floods" },
      { name: "wall-code", path: "/wall" },
      { name: "missing", path: "/things/999999999", status: 404 },
    ];
    const visit = async (page, list) => {
      for (const one of list) {
        for (const language of Object.keys(languages)) {
          for (const size of Object.keys(windows)) {
            await check(`pages: ${one.name}, ${language}, ${size}`, () => look(page, server, { ...one, language, size }));
          }
        }
      }
    };
    await visit(page, open_);
    for (const { name, path } of open_.filter(({ name }) => !["whole-screen", "missing"].includes(name))) {
      await check(`pages: ${name} by keyboard`, () => keyboard(page, server, `/en${path}`));
    }
    await check("pages: a new value comes to an open page by itself", () => live(page, server, shown));
    await check("pages: the map is played back by keyboard", () => played(page, server));
    await check("pages: a new value comes to an open dashboard by itself", () => boardLive(page, server, shown));
    await wall(browser, server, check, visit);
    const dark = await browser.newContext({ colorScheme: "dark" });
    const night = await dark.newPage();
    for (const { name, path } of open_.filter(({ name }) => !["whole-screen", "missing"].includes(name))) {
      await check(`pages: ${name} in the dark`, async () => {
        await night.goto(`${server.base}/en${path}`, { waitUntil: "load" });
        const found = await violations(night);
        assert(found.length === 0, found.join("; "));
      });
    }
    await dark.close();

    // Without scripts everything is still said, and everything can still be done.
    const plain = await browser.newContext({ javaScriptEnabled: false });
    const still = await plain.newPage();
    const account = `operator-${Date.now()}`;
    const password = "rain on a tin roof";
    await check("pages: a one-time link makes an account, once", async () => {
      const link = await server.invite("dsd", "operator");
      await join_(still, link, account, password);
      assert(!still.url().includes("/join/"), `one stays on ${still.url()}`);
      const again = await still.goto(link);
      assert(again.status() === 404, `the used link is answered ${again.status()}`);
    });
    await plain.clearCookies();
    await check("pages: a wrong password is refused and what was typed is kept", async () => {
      await signIn(still, server, account, "not the password at all");
      assert(new URL(still.url()).pathname === "/en/sign-in", still.url());
      assert((await still.inputValue("input[name=account]")) === account, "the account is lost");
      assert((await still.inputValue("input[name=password]")) === "", "the password is sent back");
    });
    await check("pages: the right one lets in, without scripts", async () => {
      const at = await signIn(still, server, account, password);
      assert(new URL(at).pathname !== "/en/sign-in", at);
    });
    await check("pages: map and chart are drawings and tables without scripts", async () => {
      await still.goto(`${server.base}/en/datastreams/${shown.stream}`);
      assert((await still.locator("main svg").count()) > 0, "no drawing");
      assert((await still.locator("main table tbody tr").count()) > 10, "no table");
      await still.goto(`${server.base}/en/map`);
      assert((await still.locator("main table tbody tr").count()) > 10, "no list beside the map");
    });
    await check("pages: a warning stands on home, and what to do on its page, without scripts", async () => {
      await still.goto(`${server.base}/en`);
      await Promise.all([still.waitForNavigation(), still.click("main a[href='/en/alerts']")]);
      await Promise.all([still.waitForNavigation(), still.click(`main a[href='/en/alerts/${shown.warning}']`)]);
      const said = await still.textContent("main");
      for (const words of ["Exercise", "Nothing is to be done.", " District"]) assert(said.includes(words), `'${words}' is missing`);
    });
    await check("pages: an alarm is acknowledged, without scripts", () => acknowledge(still, server, shown, "消防已到場"));
    await check("pages: a decision about an alarm that has changed meanwhile is refused", () => twice(plain, server, shown));
    await check("pages: a form from elsewhere is refused", async () => {
      const response = await plain.request.post(`${server.base}/en/alarms/${shown.alarm}`, {
        form: { deed: "acknowledge", version: "1", csrf: "AAAA" },
        headers: { Origin: "https://elsewhere.example" },
      });
      assert(response.status() === 403, `answered ${response.status()}`);
    });
    await plain.close();

    const signed = await browser.newContext();
    const desk = await signed.newPage();
    await check("pages: sign in", async () => {
      const at = await signIn(desk, server, account, password, "zh-hant");
      assert(new URL(at).pathname !== "/zh-hant/sign-in", at);
    });
    const own = [
      { name: "alarm", path: `/alarms/${shown.alarm}` },
      { name: "alarms-signed-in", path: "/alarms" },
      { name: "upload", path: `/upload?datastream=${shown.stream}` },
      { name: "silences", path: "/alarms/silences" },
      { name: "retention", path: "/retention" },
      { name: "rules", path: "/rules" },
      { name: "rule", path: "/rules/e2e-high-water?run=1&raise=1&clear=0.5&hold=0&clear_hold=0&days=7" },
      { name: "account", path: "/account" },
    ];
    await visit(desk, own);
    await check("pages: who signs out is out", async () => {
      await desk.goto(`${server.base}/en/account`);
      await Promise.all([desk.waitForNavigation(), desk.click("form[action$='/account/sign-out'] button")]);
      await desk.goto(`${server.base}/en/account`);
      assert(new URL(desk.url()).pathname === "/en/sign-in", desk.url());
    });
    await actuators({ browser, server, check, visit, signIn, join: join_, violations });
    await office(browser, server, shown, check, visit);
  } finally {
    await browser.close();
  }
}
