const find=document.getElementById("find"),boxes=[...document.querySelectorAll(".find [type=checkbox]")],
said=document.getElementById("said"),rows=[...document.querySelectorAll("tr[data-name]")];
function show(){const words=find.value.toLowerCase().split(/\s+/).filter(Boolean),flags=boxes.filter(b=>b.checked).map(b=>b.value);
let shown=0;for(const row of rows){const own=row.dataset.flags.split(" ");
const on=words.every(w=>row.dataset.name.includes(w))&&flags.every(f=>own.includes(f));row.hidden=!on;shown+=on}
for(const part of document.querySelectorAll("main section"))part.hidden=!part.querySelector("tr[data-name]:not([hidden])");
said.textContent=shown+" of "+rows.length+" rows"}
find.addEventListener("input",show);boxes.forEach(b=>b.addEventListener("change",show));show();
