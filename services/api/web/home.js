/** The commands on the first page, for the address at which it is read. */
for (const place of document.querySelectorAll(".address")) {
  place.textContent = location.origin;
}
