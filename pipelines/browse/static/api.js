// What the server is asked for; every path is under the token that the page itself was opened by.
import { fault } from "./dom.js";

export async function ask(name, given = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(given)) {
    query.set(key, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  let answer;
  try {
    answer = await fetch(`${name}?${query}`, { signal });
  } catch (error) {
    if (error.name !== "AbortError") fault("The server does not answer: start the command again.");
    throw error;
  }
  const isJson = answer.headers.get("Content-Type")?.startsWith("application/json");
  const told = isJson ? await answer.json() : { error: await answer.text() };
  if (!answer.ok) {
    fault(told.error);
    throw new Error(told.error);
  }
  fault("");
  return told;
}

export const picture = (row, size) => `picture?place=${row.__place}&size=${size}`;

// Only the last question of a kind is of interest: it ends the one before.
export function lastOf() {
  let before = null;
  return (name, given) => {
    before?.abort();
    before = new AbortController();
    return ask(name, given, before.signal);
  };
}
