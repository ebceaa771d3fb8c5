// A person's way through the portal, by clicking: protect, rehearse, fail over, commit, re-protect, fail back, commit, re-protect; and all tabs.
//
//   node walk.cjs URL DIRECTORY_OF_PICTURES      (NODE_PATH: playwright-core and axe-core; SWITCHBACK_TOKEN_FILE: a Contributor's token)
//
// Nothing is loaded anew here while something is waited for: pages change by themselves, as they do for a person. What fails it is in `person.cjs`.
'use strict';
const { Person, walk } = require('./person.cjs');

const [url, pictures] = process.argv.slice(2);
const STEP_MAX_MS = 60000;
const MACHINE = 'web01';

async function cycle(person) {
    const { page } = person;
    const look = (name) => person.look(name), offered = (slug) => person.offered(slug), says = (text) => person.says(text);
    const operate = (slug, before) => person.operate(MACHINE, slug, before);
    await page.getByRole('link', { name: 'Machines', exact: true }).click();
    await look('machines-none');
    await page.goto(`${url}/portal/machines`);
    await page.getByRole('link', { name: 'Protect a machine' }).click();
    await look('protect');
    await page.getByLabel(MACHINE).check();
    await page.getByRole('button', { name: 'Protect' }).click();
    await offered('test-failover');
    await says('It runs at home and is replicated to recovery');
    await operate('test-failover', () => look('test-failover'));
    await operate('test-failover-cleanup', async () => {
        await look('test-failover-cleanup');
        await page.getByLabel('What the test showed').fill('it booted');
    });
    await offered('failover');
    await look('machine-protected');
    await page.reload();
    await operate('failover', () => look('failover'));
    await offered('commit');
    await operate('change-point', () => look('change-point'));
    await offered('commit');
    await look('machine-failed-over');
    await page.reload();
    await operate('commit', () => look('commit'));
    await offered('reprotect');
    await operate('reprotect', async () => {
        await look('reprotect');
        await page.getByLabel('home-mt').check();
        await page.getByLabel('recovery-ps').check();
    });
    await says('It runs at recovery and is replicated to home');
    await offered('planned-failover');
    await look('machine-comes-home');
    await page.reload();
    await operate('planned-failover', async () => {
        await page.getByRole('button', { name: 'Planned failback' }).waitFor();
        await page.getByText('from recovery to home, its home').waitFor();
        await look('failback');
    });
    await offered('commit');
    await operate('commit');
    await offered('reprotect');
    await operate('reprotect');
    await says('It runs at home and is replicated to recovery');
    await offered('failover');
}

async function tabs(person) {
    const names = await person.page.locator('nav.tabs a').allTextContents();
    if (names.length !== 8) person.wrong.push(`there are ${names.length} tabs`);
    for (const name of names) {
        await person.tab(name);
        await person.look(`tab-${name.toLowerCase().replaceAll(' ', '-')}`);
        await person.page.reload();
    }
}

// Everything can be done without a script.
async function withoutScripts(person) {
    const page = await person.window({ javaScriptEnabled: false });
    await page.goto(`${url}/portal/machines?q=web`);
    await person.signIn(person.token, page);
    await page.getByRole('link', { name: MACHINE }).click();
    await page.locator('#do-test-failover').click();
    await page.locator('main form button').click();
    await page.getByText('A job works on it').waitFor();
    await page.getByRole('button', { name: 'dark' }).click();
    if ((await page.locator('html').getAttribute('data-theme')) !== 'dark') person.wrong.push('the choice of looks is lost');
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByRole('heading', { name: 'Sign in' }).waitFor();
    await page.context().close();
    console.log('it works without scripts');
}

walk(async () => {
    const person = await Person.begin(url, pictures, STEP_MAX_MS);
    const { page } = person;
    await page.goto(`${url}/`);
    await person.signIn('sbt_wrong');
    await page.getByRole('alert').waitFor();
    await person.look('sign-in');
    await person.signIn(person.token);
    await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
    if ((await page.evaluate(() => document.cookie)) !== '') person.wrong.push('a script can read the cookie');
    await cycle(person);
    await tabs(person);
    await page.goto(`${url}/portal/nowhere`);
    await person.look('not-found');
    await withoutScripts(person);
    await person.end();
});
