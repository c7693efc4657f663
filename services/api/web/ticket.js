/**
 * The ticket comes in the address's fragment, which no server sees. It is taken out of the address, so that it is
 * neither in the history nor on a screenshot, and kept for this tab alone, so that a reload works.
 */

const key = (batchId) => `headway.ticket.${batchId}`;

/** The ticket for this batch, or null. */
export function takeTicket(batchId) {
  const given = new URLSearchParams(location.hash.slice(1)).get("ticket");
  try {
    if (given === null) {
      return sessionStorage.getItem(key(batchId));
    }
    sessionStorage.setItem(key(batchId), given);
    history.replaceState(null, "", location.pathname + location.search);
  } catch {
    // no storage allowed here: then the ticket has to stay in the address
  }
  return given;
}
