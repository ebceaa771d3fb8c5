// Order by drag in the editor of a recovery plan: machines between groups, and groups among themselves. What is dropped goes the way of the editor's own
// forms, with what they showed (`seen`), and the editor that comes back takes the place of this one. Without it, and with the keyboard, the buttons do the same;
// so what is to be dragged by is for pointers alone, and no program that reads pages out is told of it.
'use strict';
(() => {
    const editor = () => document.getElementById('editor');
    const say = (words) => { document.getElementById('said').textContent = words; };
    let drag = null;

    // What a machine or a group is dragged by.
    function grip(before, what) {
        const handle = document.createElement('span');
        handle.className = 'grip';
        handle.textContent = '⠿';
        handle.title = `Drag ${what} to another group`;
        handle.setAttribute('aria-hidden', 'true');
        before.prepend(handle);
    }

    function addGrips() {
        for (const group of editor().querySelectorAll('[data-group]')) {
            grip(group.querySelector('h2'), 'the group');
            for (const machine of group.querySelectorAll('[data-machine]')) grip(machine.querySelector('b'), machine.dataset.machine);
        }
    }

    // The group below a pointer, if what is dragged is not in it.
    function groupAt(event) {
        const under = document.elementFromPoint(event.clientX, event.clientY);
        const group = under ? under.closest('#editor [data-group]') : null;
        return group && group !== drag.group ? group : null;
    }

    function show(target) {
        for (const shown of editor().querySelectorAll('.drop')) shown.classList.remove('drop');
        if (target) target.classList.add('drop');
    }

    function end() {
        if (!drag) return;
        show(null);
        drag.item.classList.remove('dragged');
        drag = null;
    }

    async function drop(fields, words) {
        editor().setAttribute('aria-busy', 'true');
        try {
            const any = editor().querySelector('form');
            for (const kept of ['form-token', 'seen']) fields[kept] = any.elements[kept].value;
            const response = await fetch(location.pathname, { method: 'POST', body: new URLSearchParams(fields) });
            const page = new DOMParser().parseFromString(await response.text(), 'text/html');
            const next = page.getElementById('editor');
            if (!response.ok || !next) {
                const refusal = page.querySelector('[role="alert"]');
                say(`Nothing was changed: ${refusal ? refusal.textContent.trim() : 'you may have to sign in again.'}`);
                return;
            }
            editor().replaceWith(document.adoptNode(next));
            addGrips();
            say(words);
        } catch (error) {
            say('Nothing is known of the change: the server did not answer. Load the page again.');
        } finally {
            editor().removeAttribute('aria-busy');
        }
    }

    document.addEventListener('pointerdown', (event) => {
        const handle = event.target.closest('.grip');
        if (!handle || drag || event.button !== 0 || editor().hasAttribute('aria-busy')) return;
        const group = handle.closest('[data-group]');
        const machine = handle.closest('[data-machine]');
        drag = { pointer: event.pointerId, group, machine: machine ? machine.dataset.machine : null, item: machine || group };
        drag.item.classList.add('dragged');
        handle.setPointerCapture(event.pointerId);
        event.preventDefault();
    });
    document.addEventListener('pointermove', (event) => {
        if (drag && event.pointerId === drag.pointer) show(groupAt(event));
    });
    document.addEventListener('pointerup', (event) => {
        if (!drag || event.pointerId !== drag.pointer) return;
        const target = groupAt(event);
        const { machine, group } = drag;
        end();
        if (!target) return;
        const [from, to] = [group.dataset.group, target.dataset.group];
        if (machine) drop({ do: 'place-machine', group: from, machine, to }, `${machine} is in group ${to} now.`);
        else drop({ do: 'place-group', group: from, to }, `Group ${from} is group ${to} now.`);
    });
    document.addEventListener('pointercancel', end);
    document.addEventListener('keydown', (event) => { if (event.key === 'Escape') end(); });
    addGrips();
})();
