// PostgreSQL, NATS and S3 for one run, from crates/testkit; gone when its input ends, also when this process is killed.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

export class Stores {
  constructor(helper) {
    this.process = spawn(helper, [], { stdio: ["pipe", "pipe", "inherit"] });
    this.ended = new Promise((done) => this.process.on("exit", done));
  }

  /** What the program must be told, as key=value; once they run. */
  async settings() {
    const found = [];
    for await (const line of createInterface({ input: this.process.stdout })) {
      if (line === "") return found;
      found.push(line);
    }
    throw new Error("the stores did not start");
  }

  async stop() {
    this.process.stdin.end();
    await this.ended;
  }
}
