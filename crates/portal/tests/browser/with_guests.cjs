// A person's way through the portal with real machines, chapter by chapter. Between the chapters somebody else looks at the machines' disks and consoles
// (`crates/lab/src/demo/portal.rs`).
//
//   node with_guests.cjs URL DIRECTORY_OF_PICTURES CHAPTER...      (as walk.cjs; SWITCHBACK_MACHINES: their names, causes first)
'use strict';
const { Person, walk } = require('./person.cjs');

const [url, pictures, ...chapters] = process.argv.slice(2);
const machines = process.env.SWITCHBACK_MACHINES.split(' ');
// For anything that machines and sites do; guests are emulated.
const STEP_MAX_MS = 200000;
const PLAN = 'everything';

async function machine(person, name) {
    await person.tab('Machines');
    await person.page.getByRole('link', { name, exact: true }).click();
    await person.page.getByRole('heading', { level: 1, name, exact: true }).waitFor();
}

// Asks for something with each machine, by itself; then waits until something else can be asked for.
async function each(person, slug, next, before = async () => {}) {
    for (const name of machines) {
        await machine(person, name);
        await person.offered(slug);
        await person.operate(name, slug, () => before(name));
    }
    for (const name of machines) {
        await machine(person, name);
        await person.offered(next);
    }
}

// From the plan's page through a confirmation, to the end of the job that it leads to.
async function run(person, slug, before = async () => {}) {
    await person.tab('Recovery Plans');
    await person.page.getByRole('link', { name: PLAN, exact: true }).click();
    await person.confirm(slug, before);
    await person.page.locator('#live > .badges').getByText('succeeded').waitFor();
}

// The first machine's dialogs and pages are looked at; the others' are the same.
const isFirst = (name) => name === machines[0];

const CHAPTERS = {
    async protect(person) {
        for (const name of machines) {
            await person.tab('Machines');
            await person.page.getByRole('link', { name: 'Protect a machine' }).click();
            await person.page.getByLabel(name).check();
            await person.page.getByRole('button', { name: 'Protect', exact: true }).click();
            await person.page.getByRole('heading', { level: 1, name, exact: true }).waitFor();
        }
        for (const name of machines) {
            await machine(person, name);
            await person.offered('test-failover');
            await person.says('It runs at home and is replicated to recovery');
        }
    },

    async make_plan(person) {
        const { page } = person;
        await person.tab('Recovery Plans');
        await page.locator('#new-plan').click();
        await page.getByLabel('Name').fill(PLAN);
        await page.getByRole('button', { name: 'Make it' }).click();
        await page.locator('#add-group').click();
        await page.locator('#group-2').waitFor();
        for (const [index, name] of machines.entries()) {
            const group = page.locator(`#group-${index + 1}`);
            await group.getByLabel('Add a machine', { exact: true }).selectOption(name);
            await group.getByRole('button', { name: `Add the machine to group ${index + 1}` }).click();
            await group.getByRole('button', { name: `Remove ${name} from the plan` }).waitFor();
        }
        await person.look('guests-plan-edit');
    },

    // The newest point of the first machine, in a sandbox; its login prompt is looked for.
    async verify(person) {
        await machine(person, machines[0]);
        await person.confirm('verify');
        await person.page.locator('#live > .badges').getByText('succeeded').waitFor();
        await machine(person, machines[0]);
        await person.page.locator('#last-proof').getByText('passed').click();
        await person.page.getByText('login:').first().waitFor();
        const shown = await person.page.locator('img.screen').evaluate((picture) => picture.naturalWidth);
        if (shown < 100) person.wrong.push(`the picture of the sandbox's screen is ${shown} px wide`);
        await person.look('guests-proof');
    },

    async plan_failover(person) {
        await run(person, 'failover', () => person.page.getByLabel('Recovery point').selectOption('LatestMultiVmProcessed'));
        await person.look('guests-plan-run');
    },

    async commit(person) {
        await each(person, 'commit', 'reprotect');
    },

    async reprotect_home(person) {
        await each(person, 'reprotect', 'planned-failover', async (name) => {
            await person.page.getByText('Original location').waitFor();
            await person.page.getByLabel('master-target-home').check();
            await person.page.getByLabel('process-server-recovery').check();
            if (isFirst(name)) await person.look('guests-reprotect');
        });
        await person.says('It runs at recovery and is replicated to home');
        await person.look('guests-machine-comes-home');
    },

    async come_home(person) {
        await each(person, 'planned-failover', 'commit', async (name) => {
            await person.page.getByText('from recovery to home, its home').waitFor();
            if (isFirst(name)) await person.look('guests-failback');
        });
    },

    async plan_reprotect(person) {
        await run(person, 'reprotect');
    },

    async tabs(person) {
        for (const name of await person.page.locator('nav.tabs a').allTextContents()) {
            await person.tab(name);
            await person.look(`guests-tab-${name.toLowerCase().replaceAll(' ', '-')}`);
            await person.page.reload();
        }
    },
};

walk(async () => {
    const person = await Person.begin(url, pictures, STEP_MAX_MS);
    await person.page.goto(`${url}/portal/`);
    await person.signIn(person.token);
    await person.page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
    for (const chapter of chapters) {
        const begin = Date.now();
        await CHAPTERS[chapter](person);
        console.log(`${chapter}: ${((Date.now() - begin) / 1000).toFixed(1)} s`);
    }
    await person.end();
});
