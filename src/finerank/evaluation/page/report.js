"use strict";
const samples = [...document.querySelectorAll(".sample")];
const words = samples.map((sample) => sample.textContent.toLowerCase());
const search = document.getElementById("search");
const count = document.getElementById("count");
if (search) {
  search.addEventListener("input", () => {
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    samples.forEach((sample, index) => {
      sample.hidden = !terms.every((term) => words[index].includes(term));
      found += sample.hidden ? 0 : 1;
    });
    count.textContent = terms.length ? `${found} of ${samples.length} queries` : "";
  });
}
document.addEventListener("click", (event) => {
  const passage = event.target.closest && event.target.closest(".passage");
  if (passage) passage.classList.toggle("whole");
});
