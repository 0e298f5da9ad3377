// The desk from which officers move things: a Task from its form to its end by two people, without scripts, and the kill switch.

function assert(truth, why) {
  if (!truth) throw new Error(why);
}

/** `tools` are what pages.mjs has: browser, server, check, visit, signIn, join, violations. */
export async function actuators({ browser, server, check, visit, signIn, join, violations }) {
  const key = await server.key("dsd", "admin");
  const ask = (path) => server.ask("GET", path, key);
  const filter = encodeURIComponent("Thing/properties/system eq 'flood'");
  const found = await ask(`/v1.1/TaskingCapabilities?$filter=${filter}&$orderby=id&$top=100`);
  const of = (shape) => found.value.find((row) => row.properties.key.endsWith(`.${shape}`));
  const [gate, pump] = [of("gate"), of("pump")];
  assert(gate && pump, "the pack's flood stations have no gate or no pump");
  const password = "a lamp in the rain";
  const people = [];
  for (const name of ["first", "second"]) {
    const account = `${name}-${Date.now()}`;
    const context = await browser.newContext({ javaScriptEnabled: false });
    const page = await context.newPage();
    await join(page, await server.invite("dsd", "operator"), account, password);
    people.push({ account, context, page });
  }
  const [first, second] = people.map((person) => person.page);
  const desk = `${server.base}/en/tasking`;
  let task;

  await check("pages: a task is proposed and waits for a second person, without scripts", async () => {
    await first.goto(`${desk}/${gate["@iot.id"]}`);
    await first.check("input[name=p0][value=closed]");
    await first.fill("textarea[name=reason]", "Water <rises> at San Tin");
    await Promise.all([first.waitForNavigation(), first.click("form.long button")]);
    task = new URL(first.url()).pathname.split("/").at(-1);
    const said = await first.textContent("main");
    for (const words of ["Waits for approval", "Water <rises> at San Tin", "A second person must approve it", "Closed"]) {
      assert(said.includes(words), `'${words}' is missing`);
    }
    assert((await first.locator("button[value=approve]").count()) === 0, "one may approve what one has proposed");
  });
  await check("pages: the second person sees what, who, why and what follows, and approves", async () => {
    await second.goto(`${desk}/tasks?status=validated`);
    await Promise.all([second.waitForNavigation(), second.click(`main a[href='/en/tasking/tasks/${task}']`)]);
    const said = await second.textContent("main");
    for (const words of ["Water <rises> at San Tin", "Closed", "What follows:", "upstream rises"]) {
      assert(said.includes(words), `'${words}' is missing`);
    }
    await second.fill("textarea[name=comment]", "Seen on camera 3");
    await Promise.all([second.waitForNavigation(), second.click("button[value=approve]")]);
    const after = await second.textContent("main");
    for (const words of ["Sent", "Seen on camera 3", "Sent to the device"]) assert(after.includes(words), `'${words}' is missing`);
    const { task: now } = await ask(`/api/tasks/${task}`);
    assert(now.status === "sent" && now.approver !== now.proposer, JSON.stringify(now));
  });
  await check("pages: a decision about a task that has changed meanwhile is refused", async () => {
    const late = await people[1].context.newPage();
    await late.goto(`${desk}/tasks/${task}`);
    await Promise.all([second.waitForNavigation(), second.click("button[value=cancel]")]);
    const [answer] = await Promise.all([late.waitForNavigation(), late.click("button[value=cancel]")]);
    assert([409, 412].includes(answer.status()), `answered ${answer.status()}`);
    await late.close();
  });

  await check("pages: the kill switch wants its word, stops, is told on every desk, and is lifted", async () => {
    await first.goto(`${desk}/stop`);
    await first.fill("textarea[name=reason]", "Divers in the channel");
    await first.fill("input[name=word][id=field-word]", "yes");
    let [answer] = await Promise.all([first.waitForNavigation(), first.click("button.danger")]);
    assert(answer.status() === 422, `another word is answered ${answer.status()}`);
    assert((await first.locator(".error-summary a").count()) === 1, "the summary does not name the mistake");
    assert((await first.inputValue("textarea[name=reason]")) === "Divers in the channel", "what was typed is lost");
    assert((await ask("/api/tasking/stop")).stops.length === 0, "it was thrown all the same");
    await first.fill("input[name=word][id=field-word]", "STOP");
    await Promise.all([first.waitForNavigation(), first.click("button.danger")]);
    const { stops } = await ask("/api/tasking/stop");
    assert(stops.length === 1 && stops[0].tenant === "dsd", JSON.stringify(stops));
    await second.goto(desk);
    assert((await second.textContent("main")).includes("Divers in the channel"), "the desk does not say so");
    await second.goto(`${desk}/${pump["@iot.id"]}`);
    assert((await second.textContent("main")).includes("Divers in the channel"), "the actuator's page does not say so");
    await second.goto(`${desk}/stop`);
    await second.fill("input[id=lift-0]", "RESUME");
    await Promise.all([second.waitForNavigation(), second.click("form.finder button")]);
    const after = await ask("/api/tasking/stop");
    assert(after.stops.length === 0 && after.record.length === 2, JSON.stringify(after));
  });

  const scripted = await browser.newContext();
  const page = await scripted.newPage();
  await signIn(page, server, people[0].account, password);
  await visit(page, [
    { name: "tasking", path: "/tasking" },
    { name: "tasking-gate", path: `/tasking/${gate["@iot.id"]}` },
    { name: "tasking-pump", path: `/tasking/${pump["@iot.id"]}` },
    { name: "tasks", path: "/tasking/tasks" },
    { name: "task", path: `/tasking/tasks/${task}` },
    { name: "tasking-stop", path: "/tasking/stop" },
  ]);
  for (const language of ["en", "zh-hant", "zh-hans"]) {
    await check(`pages: a task with mistakes, ${language}`, async () => {
      await page.setViewportSize({ width: 375, height: 800 });
      await page.goto(`${server.base}/${language}/tasking/${gate["@iot.id"]}`);
      await page.evaluate(() => (document.querySelector("main form.long").noValidate = true));
      await Promise.all([page.waitForNavigation(), page.click("form.long button")]);
      assert((await page.locator(".error-summary a").count()) === 2, "the summary does not name both mistakes");
      const found = await violations(page);
      assert(found.length === 0, found.join("; "));
    });
  }
  for (const { context } of people) await context.close();
  await scripted.close();
}
