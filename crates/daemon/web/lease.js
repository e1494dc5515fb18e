// Keeps the control lease alive, in a worker: a page in the background has its timers slowed down, a worker has not.

import { Service } from "./wire.js";

let timer = 0;

onmessage = async ({ data }) => {
  clearTimeout(timer);
  if (!data.lease) return;
  const service = await Service.load(() => data.token);
  const period = data.ttlMs / 4;
  let seen = performance.now();
  let decline = false;
  onmessage = ({ data: next }) => {
    if (next.decline) decline = true;
    if (next.stop) {
      clearTimeout(timer);
      close();
    }
  };
  const beat = async () => {
    try {
      const signal = AbortSignal.timeout(data.ttlMs / 2);
      const request = { lease: data.lease, decline_takeover: decline };
      decline = false;
      const answer = await service.call("ControlService/RenewLease", request, signal);
      seen = performance.now();
      postMessage({ held: true, lease: answer.lease });
    } catch (error) {
      const ranOut = performance.now() - seen > data.ttlMs;
      if (error.reason !== "UNREACHABLE" || ranOut) {
        postMessage({ held: false, why: ranOut ? "the service did not answer in time" : error.message });
        return;
      }
    }
    timer = setTimeout(beat, period);
  };
  beat();
};
