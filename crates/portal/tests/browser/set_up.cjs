// A Contributor's way through what is set up by forms: an issuer is made known and signed in at, everything in Settings is made, changed, tried and removed, and the
// order of a recovery plan is dragged with a pointer.
//
//   node set_up.cjs URL DIRECTORY_OF_PICTURES      (as walk.cjs; and ISSUER, ISSUER_AUTHORITY: an issuer of tokens, and what its TLS is checked by)
'use strict';
const { Person, walk } = require('./person.cjs');

const [url, pictures] = process.argv.slice(2);
const STEP_MAX_MS = 60000;
// An issuer's no, an account that is tried before a site needs it, a plan that somebody else has changed.
const REFUSALS = ['/portal/sign-in/corp/answer', '/portal/settings/accounts/vc/test', '/portal/plans/RP1/edit'];
const SETTINGS = `${url}/portal/settings`;
const heading = (page, name) => page.getByRole('heading', { level: 1, name }).waitFor();

// Opens a form by a link of a page, looks at it if it has a name, fills it in and sends it.
async function fill(person, from, link, fields, name) {
    const { page } = person;
    await page.goto(from);
    await link(page).click();
    await page.locator('main form button').waitFor();
    if (name) await person.look(name);
    for (const [label, value] of fields) {
        const field = page.getByLabel(label, { exact: true });
        if (value === true) await field.check();
        else if ((await field.evaluate((node) => node.tagName)) === 'SELECT') await field.selectOption(value);
        else await field.fill(value);
    }
    await page.locator('main form button').click();
}

const byId = (id) => (page) => page.locator(`#${id}`);
const byName = (name) => (page) => page.getByLabel(name, { exact: true });

async function issuer(person) {
    const { page } = person;
    const fields = [
        ['Name', 'corp'], ['Issuer', process.env.ISSUER], ['Audiences', 'api://switchback'], ['Roles', 'Contributor=Dr.All'],
        ['Authority of its certificate (PEM)', process.env.ISSUER_AUTHORITY], ["The portal's client id there", 'portal'],
        ["The client's secret", 'a secret of the portal'],
    ];
    await fill(person, SETTINGS, byId('new-sign-in'), fields, 'new-sign-in');
    await page.getByText('people sign in there by clicking').waitFor();
    await fill(person, SETTINGS, byName('Try the sign-in corp'), [], 'try-sign-in');
    await heading(page, 'It answers');
    await person.look('tried-sign-in');
    await fill(person, SETTINGS, byName('Change the sign-in corp'), [['Scopes beside openid', 'profile']], 'change-sign-in');
    await heading(page, 'Settings');
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByRole('link', { name: 'Sign in with corp' }).waitFor();
    await person.look('sign-in-with-issuer');
    // Somebody changes his mind at the issuer.
    await page.goto(`${url}/portal/sign-in?next=%2Fportal%2Fsettings`);
    await page.getByRole('link', { name: 'Sign in with corp' }).click();
    await page.getByRole('link', { name: 'Cancel' }).click();
    await page.getByRole('alert').getByText('corp refuses it (access_denied): the <b>user</b> said no').waitFor();
    await person.look('sign-in-refused');
    await page.reload();
    await page.getByRole('alert').getByText('does not belong to a sign-in of this browser').waitFor();
    // The way back leads to where it was begun from.
    await page.goto(`${SETTINGS}`);
    await page.getByRole('link', { name: 'Sign in with corp' }).click();
    await page.getByRole('link', { name: 'Continue as Alice' }).click();
    await heading(page, 'Settings');
    await page.getByText('corp/alice@example.com').waitFor();
    if ((await page.evaluate(() => document.cookie)) !== '') person.wrong.push('a script can read a cookie');
    const left = (await page.context().cookies()).map((cookie) => `${cookie.name} ${cookie.sameSite} ${cookie.httpOnly}`);
    if (left.join() !== '__Host-switchback Strict true') person.wrong.push(`cookies: ${left.join()}`);
    console.log('signed in at the issuer');
}

async function settings(person) {
    const { page } = person;
    const account = [['Name', 'vc'], ['User', 'svc'], ['Password', 'a password']];
    await fill(person, SETTINGS, byId('new-account'), account, 'new-account');
    await fill(person, SETTINGS, byName('Change the account vc'), [['New password', 'another']], 'change-account');
    await page.goto(SETTINGS);
    await page.getByRole('button', { name: 'Try the account vc' }).click();
    await page.getByRole('alert').getByText('no site is entered with the account').waitFor();
    const hook = [['Name', 'hook'], ['Address', 'https://localhost:1/alerts'], ['Key', 'sixteen characters']];
    await fill(person, SETTINGS, byId('new-webhook'), hook, 'new-webhook');
    const mail = [
        ['Name', 'mail'], ['Mail server', 'mail.example'], ['User', 'dr'], ['Password', 'a password'], ['From', 'dr@example.com'], ['To', 'ops@example.com'],
    ];
    await fill(person, SETTINGS, byId('new-mail'), mail, 'new-mail');
    await fill(person, SETTINGS, byName('Change the destination hook'), [['From which severity on', 'Critical']], 'change-webhook');
    await fill(person, SETTINGS, byId('alert-policy'), [['Seconds that something must last', '5']], 'alert-policy');
    const mapping = [['At the site', 'home'], ['The network', 'lan'], ['At the other site', 'recovery'], ['Corresponds to the network', 'lan']];
    await fill(person, SETTINGS, byId('new-mapping'), mapping, 'new-mapping');
    await fill(person, SETTINGS, byName('Change the mapping of lan'), [['At test failovers', 'lan']], 'change-mapping');
    await fill(person, SETTINGS, byId('edit-PG1'), [['Bytes per second that a machine sends at most', '5M']], 'policy');
    await page.getByText('5.0 MB/s at most').or(page.getByText('/s at most for each machine')).first().waitFor();
    await person.look('settings-all');
    await fill(person, SETTINGS, byId('new-token'), [['Name', 'ci']], 'new-token');
    await page.locator('#secret').waitFor();
    await person.look('token-made');
    await page.goto(`${SETTINGS}/backup`);
    await person.look('backup');
    const removed = ['Remove the destination hook', 'Remove the destination mail', 'Remove the account vc', 'Remove the mapping of lan', 'Delete the token ci'];
    for (const [number, name] of removed.entries()) {
        await fill(person, SETTINGS, byName(name), [], number === 0 ? 'remove' : '');
        await heading(page, 'Settings');
        if ((await byName(name)(page).count()) !== 0) person.wrong.push(`it is there after: ${name}`);
    }
    console.log('settings are set');
}

async function servers(person) {
    const { page } = person;
    await page.goto(`${url}/portal/servers`);
    await page.getByRole('link', { name: 'home-ps' }).click();
    const here = page.url();
    const limits = [['Bytes per second at most', '10M'], ['Other rates in parts of the week', 'mon-fri/08:00-18:00=2M'], ['Local time from UTC', '+01:00']];
    await fill(person, here, byId('bandwidth'), limits, 'bandwidth');
    await page.getByText('10M bytes/s mon,tue,wed,thu,fri/08:00-18:00=2M').waitFor();
    await fill(person, `${url}/portal/sites`, byId('new-physical'), [['Name', 'racks']], 'new-site-physical');
    await heading(page, 'racks');
    await fill(person, page.url(), byId('remove'), [], 'forget-site');
    await heading(page, 'Sites');
    await page.locator('#new-local').click();
    await person.look('new-site-local');
    await page.goto(`${url}/portal/protect?group=PG1`);
    await page.getByLabel('web01').check();
    await page.getByRole('button', { name: 'Protect' }).click();
    await page.locator('#do-switch-process-server').waitFor();
    await page.locator('#do-test-failover').waitFor();
    await fill(person, `${url}/portal/machines/web01`, byId('do-switch-process-server'), [['From now on through', 'other-ps']], 'switch-process-server');
    await page.locator('#live').getByText('other-ps').first().waitFor();
    console.log('servers and sites are set');
}

// With the pointer, as a hand does: down, some way, up.
async function drag(page, from, to) {
    const [a, b] = [await from.boundingBox(), await to.boundingBox()];
    await page.mouse.move(a.x + a.width / 2, a.y + a.height / 2);
    await page.mouse.down();
    await page.mouse.move(b.x + b.width / 2, b.y + 20, { steps: 8 });
    await page.mouse.up();
}

async function order(person) {
    const { page } = person;
    await page.goto(`${url}/portal/new-plan`);
    await page.getByLabel('Name').fill('RP1');
    await page.locator('main form button').click();
    await page.getByRole('button', { name: 'Add the machine to group 1' }).click();
    await page.locator('#add-group').click();
    await page.locator('#group-2').waitFor();
    const [group, grip] = [(number) => page.locator(`#group-${number}`), (place) => place.locator('.grip').first()];
    const machineIn = (number) => group(number).locator('[data-machine="web01"]');
    const says = (words) => page.getByRole('status').getByText(words, { exact: true }).waitFor();
    await person.look('plan-order');
    await page.reload();
    await drag(page, grip(machineIn(1)), group(2));
    await says('web01 is in group 2 now.');
    await machineIn(2).waitFor();
    await page.reload();
    await machineIn(2).waitFor();
    // Groups change places; what is dropped where it was changes nothing.
    await drag(page, grip(group(2)), group(1));
    await says('Group 2 is group 1 now.');
    await machineIn(1).waitFor();
    await drag(page, grip(machineIn(1)), group(1));
    // Given up half way.
    const [from, to] = [await grip(machineIn(1)).boundingBox(), await group(2).boundingBox()];
    await page.mouse.move(from.x + 5, from.y + 5);
    await page.mouse.down();
    await page.mouse.move(to.x + 50, to.y + 20, { steps: 4 });
    await page.locator('#group-2.drop').waitFor();
    await page.keyboard.press('Escape');
    await page.mouse.up();
    await machineIn(1).waitFor();
    // The buttons are there, and do the same.
    await page.getByRole('button', { name: 'web01 into the next group' }).press('Enter');
    await machineIn(2).waitFor();
    // Somebody else was quicker.
    const other = await page.context().newPage();
    await other.goto(page.url());
    await other.locator('#add-group').click();
    await other.locator('#group-3').waitFor();
    await other.close();
    await drag(page, grip(machineIn(2)), group(1));
    await page.getByRole('status').getByText('Nothing was changed:').waitFor();
    await page.reload();
    await machineIn(2).waitFor();
    console.log('the plan is in order');
}

walk(async () => {
    const person = await Person.begin(url, pictures, STEP_MAX_MS);
    person.refusals.push(...REFUSALS);
    person.origins.push(new URL(process.env.ISSUER).origin);
    await person.page.goto(`${url}/`);
    await person.signIn(person.token);
    await heading(person.page, 'Overview');
    await issuer(person);
    await settings(person);
    await servers(person);
    await order(person);
    await person.end();
});
