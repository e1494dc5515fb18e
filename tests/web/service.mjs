// A real service on the simulated microscope, in a process of its own. `BEAMWRIGHT` names the binary,
// `WEB_DIRECTORY` the files of the page while somebody works on them.

import { spawn } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export const BINARY = process.env.BEAMWRIGHT ?? "beamwright";

export class Service {
  constructor(more = "") {
    this.more = more;
    this.folder = mkdtempSync(join(tmpdir(), "beamwright-page-"));
    this.port = 0;
  }

  async start() {
    this.config = join(this.folder, "beamwright.toml");
    writeFileSync(this.config, `
[service]
listen = "127.0.0.1:${this.port}"
web_directory = "${process.env.WEB_DIRECTORY ?? ""}"
[store]
directory = "${this.folder}"
[column]
high_tension_kv = 200
probe_current_pa = 10
probe_current_source = "test"
[engine]
watchdog_ms = 1000
${this.more}
`);
    this.process = spawn(BINARY, ["serve", "--config", this.config], { stdio: ["ignore", "pipe", "inherit"] });
    for await (const line of createInterface({ input: this.process.stdout })) {
      const found = /http:\/\/127\.0\.0\.1:(\d+)/.exec(line);
      if (!found) continue;
      this.port = Number(found[1]);
      this.url = `http://127.0.0.1:${this.port}/`;
      return this;
    }
    throw new Error("the service named no address");
  }

  async kill(signal = "SIGKILL") {
    const ended = new Promise((done) => this.process.once("exit", done));
    this.process.kill(signal);
    await ended;
  }
}
