// The instrument as the page knows it: what it tells by itself, and what it can be asked to do.

import { Refusal } from "./wire.js";

const TTL_MS = 3000;
/** What tells this page from another one, for people. */
const HOLDER = `web page of ${new Date().toTimeString().slice(0, 5)}`;
/** A service tells its status at least twice a second; one that has said nothing for so long is taken for gone, and asked again. */
const SILENCE_MS = 2500;

export class Instrument extends EventTarget {
  constructor(service) {
    super();
    this.service = service;
    this.status = null;
    this.acquisition = null;
    this.lease = null;
    this.lost = null;
    this.connected = false;
    this.asked = { acquisition: "", detector: "", plane: "ESTIMATE" };
    this.stop = new AbortController();
    this.heard = 0;
    setInterval(() => {
      if (!this.connected || performance.now() - this.heard < SILENCE_MS) return;
      this.disconnected(new Refusal(`the service has said nothing for ${SILENCE_MS / 1000} s`, "UNREACHABLE"));
      this.stop.abort();
    }, 500);
  }

  tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  /** Follows the instrument for ever; opens the stream again when it breaks. */
  async follow() {
    for (;;) {
      this.stop = new AbortController();
      try {
        await this.once(this.stop.signal);
      } catch (error) {
        if (!this.turning) this.disconnected(error);
      }
      if (!this.turning) await new Promise((done) => setTimeout(done, 700));
      this.turning = false;
    }
  }

  async once(signal) {
    // Who serves is asked while the stream begins: the first picture waits for neither.
    const met = this.connected ? null : this.meet(signal);
    met?.catch(() => this.stop.abort());
    try {
      await this.listen(signal);
    } catch (error) {
      // Where the service does not answer, or refuses, its word about that is the cause.
      await met;
      throw error;
    }
  }

  async listen(signal) {
    const detectors = this.asked.detector ? [this.asked.detector] : [];
    // Only what is looked at: what is not sent is not decoded, and the page stays quick for the hand on Blank.
    const previews = { planes: [this.asked.plane], detectors, max_rate_hz: 15, encoding: "F32", max_side_px: 1024 };
    const request = { previews, acquisition: this.asked.acquisition, max_rate_hz: 10 };
    for await (const event of this.service.stream("MonitorService/Monitor", request, signal)) {
      this.heard = performance.now();
      if (event.status) this.take(event.status);
      if (event.acquisition) this.takeAcquisition(event.acquisition);
      if (event.preview) this.tell("preview", event.preview);
    }
  }

  async meet(signal) {
    const [info, { capabilities }] = await Promise.all([
      this.service.call("InstrumentService/GetServerInfo", {}, signal),
      this.service.call("InstrumentService/GetCapabilities", {}, signal),
    ]);
    this.heard = performance.now();
    Object.assign(this, { info, capabilities, connected: true });
    this.tell("connected", info);
  }

  disconnected(error) {
    const was = this.connected;
    this.connected = false;
    this.tell("disconnected", { error, was });
  }

  take(status) {
    this.status = status;
    this.tell("status", status);
  }

  takeAcquisition(told) {
    // The plan is sent once; it does not change.
    const isSame = this.acquisition?.name === told.name;
    this.acquisition = { ...told, plan: told.plan ?? (isSame ? this.acquisition.plan : undefined) };
    this.tell("acquisition", this.acquisition);
  }

  /** Looks at another acquisition (empty: the one that has the instrument, else the newest), detector or plane. */
  look(asked) {
    const next = { ...this.asked, ...asked };
    if (Object.keys(next).every((key) => next[key] === this.asked[key])) return;
    this.asked = next;
    this.turning = true;
    this.stop.abort();
  }

  /** Blanks; tells how long it took, click to acknowledgement. */
  async blank(reason) {
    const began = performance.now();
    const answer = await this.service.call("InstrumentService/Blank", { reason });
    return { ms: performance.now() - began, serviceMs: answer.latency_us / 1000, parked: answer.parked_unblanked };
  }

  get holds() {
    return this.lease !== null;
  }

  /** Takes control, when it is free or `reason` moves its holder to leave. */
  async takeControl(reason = "") {
    const grant = await this.granted({ ttl_ms: TTL_MS, holder: HOLDER }, reason);
    this.keep(grant.lease, grant.ttl_ms);
    // Arming needs a heartbeat that was seen.
    await this.service.call("ControlService/RenewLease", { lease: grant.lease });
    this.tell("lease", null);
  }

  async granted(request, reason) {
    if (reason) return this.service.call("ControlService/TakeOverLease", { ...request, reason });
    for (let tries = 1; ; tries++) {
      try {
        return await this.service.call("ControlService/AcquireLease", request);
      } catch (error) {
        // Between two holders lies a blank, which takes a moment.
        if (error.reason !== "OVERLOADED" || tries === 10) throw error;
        await new Promise((done) => setTimeout(done, 150));
      }
    }
  }

  keep(lease, ttlMs) {
    this.lease = lease;
    this.lost = null;
    this.keeper = new Worker("/web/lease.js", { type: "module" });
    this.keeper.onmessage = ({ data }) => {
      if (data.held || this.lease !== lease) return;
      this.dropControl();
      this.lost = data.why;
      this.tell("lease", null);
    };
    this.keeper.postMessage({ lease, ttlMs, token: this.service.token() });
  }

  dropControl() {
    this.keeper?.postMessage({ stop: true });
    this.keeper = null;
    this.lease = null;
  }

  declineTakeover() {
    this.keeper?.postMessage({ decline: true });
  }

  async releaseControl() {
    const { lease } = this;
    this.dropControl();
    this.tell("lease", null);
    if (lease) await this.service.call("ControlService/ReleaseLease", { lease });
  }

  /** A call that needs control; takes it where it is free. */
  async command(method, request = {}) {
    if (!this.holds) await this.takeControl();
    try {
      return await this.service.call(method, { lease: this.lease, ...request });
    } catch (error) {
      if (error instanceof Refusal && error.reason === "LEASE_STALE") {
        this.dropControl();
        this.lost = error.message;
        this.tell("lease", null);
      }
      throw error;
    }
  }

  async start(plan) {
    if (this.status?.trip) throw new Refusal("The controller is tripped: clear the trip first.", "TRIPPED");
    const { acquisition } = await this.command("AcquisitionService/CreateAcquisition", { plan });
    const { name } = acquisition;
    this.look({ acquisition: "" });
    try {
      await this.command("AcquisitionService/StartAcquisition", { name });
    } catch (error) {
      // What was never started is discarded; the reason of the refusal is what counts.
      await this.command("AcquisitionService/AbortAcquisition", { name }).catch(() => {});
      throw error;
    }
    return acquisition;
  }

  act(verb) {
    return this.command(`AcquisitionService/${verb}Acquisition`, { name: this.acquisition.name });
  }

  clearTrip() {
    return this.command("InstrumentService/ClearTrip", { cause_id: this.status.trip.cause_id });
  }

  /** What a plan would cost; moves nothing and needs no control. */
  async predict(plan, signal) {
    const answer = await this.service.call("AcquisitionService/CreateAcquisition", { plan, validate_only: true }, signal);
    return answer.acquisition;
  }
}
