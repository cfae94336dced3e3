/**
 * What betrays a property-management system (PMS): a table of products and the traces each leaves on a web page
 * or in a sentence.
 *
 * Data only: adding a product is adding a row. A host is matched as a suffix on a label boundary, a marker as a
 * case-insensitive piece of the page, a word as a whole word in prose. Names which are English words (`opera`, `track`)
 * need a companion word there, because "an opera house" is not a hotel system. The reading of pages is in research/pms.ts.
 */

/** One product: its `name` as people write it, and where it shows. */
export type Fingerprint = {
  readonly name: string
  /** Other spellings, accepted in criteria and in a directory's PMS column; compared without case and punctuation. */
  readonly aliases: readonly string[]
  /** Hosts of portals, booking engines and assets; `appfolio.com` also stands for `acme.appfolio.com`. */
  readonly hosts: readonly string[]
  /** Pieces of HTML which only this product's widgets write. */
  readonly markers: readonly string[]
  /** Whole words which name the product in a description. */
  readonly words: readonly string[]
}

/** The products known to detection, most specific first: on equal evidence the earlier one wins. */
export const FINGERPRINTS: readonly Fingerprint[] = [
  {
    name: 'AppFolio',
    aliases: ['appfolio property manager', 'app folio'],
    hosts: ['appfolio.com', 'appf.io', 'appfolioim.com'],
    markers: ['appfolio-listings', 'Appfolio.Listing', 'powered by appfolio'],
    words: ['appfolio'],
  },
  {
    name: 'Buildium',
    aliases: ['buildium property management'],
    hosts: ['managebuilding.com', 'buildium.com'],
    markers: ['buildium-listings', 'powered by buildium'],
    words: ['buildium'],
  },
  {
    name: 'RentCafe',
    aliases: ['yardi rentcafe', 'rent cafe'],
    hosts: ['rentcafe.com', 'securecafe.com', 'rentcafewebsite.com', 'cdngeneral.rentcafe.com'],
    markers: ['rentcafe', 'securecafe'],
    words: ['rentcafe', 'rent cafe'],
  },
  {
    name: 'Yardi',
    aliases: ['yardi voyager', 'yardi breeze', 'yardi systems'],
    hosts: ['yardi.com', 'yardibreeze.com', 'yardiasp.com', 'yardione.com', 'yardiaspnc1.com'],
    markers: ['yardi-breeze', 'powered by yardi'],
    words: ['yardi'],
  },
  {
    name: 'Entrata',
    aliases: ['entrata prospectportal', 'property solutions'],
    hosts: [
      'entrata.com',
      'prospectportal.com',
      'residentportal.com',
      'entratacdn.com',
      'leasingautomation.com',
    ],
    markers: ['prospectportal', 'powered by entrata'],
    words: ['entrata'],
  },
  {
    name: 'OneSite',
    aliases: ['realpage onesite', 'one site'],
    hosts: ['onesite.realpage.com', 'loftliving.com', 'activebuilding.com', 'on-site.com'],
    markers: ['onesite.realpage', 'activebuilding'],
    words: ['onesite'],
  },
  {
    name: 'RealPage',
    aliases: ['real page', 'leasestar'],
    hosts: [
      'realpage.com',
      'leasestar.com',
      'leasingdesk.com',
      'g5searchmarketing.com',
      'propertyware-realpage.com',
    ],
    markers: ['powered by realpage', 'g5-cloudfront'],
    words: ['realpage'],
  },
  {
    name: 'ResMan',
    aliases: ['resman property management', 'res man'],
    hosts: ['myresman.com', 'resman.com'],
    markers: ['myresman', 'powered by resman'],
    words: ['resman'],
  },
  {
    name: 'Rent Manager',
    aliases: ['rentmanager', 'rentmanager express'],
    hosts: ['rentmanager.com', 'twa.rentmanager.com', 'rmresident.com'],
    markers: ['rentmanager', 'rent manager online'],
    words: ['rent manager', 'rentmanager'],
  },
  {
    name: 'Propertyware',
    aliases: ['property ware'],
    hosts: ['propertyware.com'],
    markers: ['propertyware'],
    words: ['propertyware'],
  },
  {
    name: 'Rentvine',
    aliases: ['rent vine'],
    hosts: ['rentvine.com'],
    markers: ['powered by rentvine'],
    words: ['rentvine'],
  },
  {
    name: 'DoorLoop',
    aliases: ['door loop'],
    hosts: ['doorloop.com'],
    markers: ['doorloop'],
    words: ['doorloop'],
  },
  {
    name: 'TenantCloud',
    aliases: ['tenant cloud'],
    hosts: ['tenantcloud.com'],
    markers: ['tenantcloud'],
    words: ['tenantcloud'],
  },
  {
    name: 'Rentec Direct',
    aliases: ['rentec', 'rentecdirect'],
    hosts: ['rentecdirect.com'],
    markers: ['rentecdirect'],
    words: ['rentec direct', 'rentec'],
  },
  {
    name: 'Hospitable',
    aliases: ['smartbnb', 'hospitable.com'],
    hosts: ['hospitable.com', 'hospitable.rentals'],
    markers: ['hospitable-widget', 'hospitable.rentals'],
    words: ['smartbnb', 'hospitable.com', 'hospitable pms'],
  },
  {
    name: 'Guesty',
    aliases: ['guesty for hosts', 'your porter'],
    hosts: ['guesty.com', 'guestybookings.com', 'guestyforhosts.com', 'guestyowners.com'],
    markers: ['guesty-search-widget', 'guestybookings'],
    words: ['guesty'],
  },
  {
    name: 'Hostaway',
    aliases: ['host away'],
    hosts: ['hostaway.com', 'holidayfuture.com', 'hostawaysites.com'],
    markers: ['hostaway-calendar', 'hostaway'],
    words: ['hostaway'],
  },
  {
    name: 'Streamline',
    aliases: ['streamline vrs'],
    hosts: ['streamlinevrs.com'],
    markers: ['streamlinevrs', 'streamlinecore'],
    words: ['streamline vrs'],
  },
  {
    name: 'Track',
    aliases: ['track pms', 'track hs', 'travelnet solutions'],
    hosts: ['trackhs.com', 'tracksandbox.io'],
    markers: ['trackhs.com'],
    words: ['track pms', 'track hs', 'trackhs'],
  },
  {
    name: 'Cloudbeds',
    aliases: ['cloud beds', 'mycloudbeds'],
    hosts: ['cloudbeds.com'],
    markers: ['cloudbeds-immersive', 'cloudbeds'],
    words: ['cloudbeds'],
  },
  {
    name: 'Mews',
    aliases: ['mews systems', 'mews commander'],
    hosts: ['mews.com', 'mews.li'],
    markers: ['mews-distributor', 'Mews.Distributor'],
    words: ['mews pms', 'mews systems', 'mews commander', 'mews hospitality cloud'],
  },
  {
    name: 'Opera',
    aliases: ['oracle opera', 'opera pms', 'opera cloud', 'micros opera', 'oracle hospitality opera'],
    hosts: ['oraclehospitality.com', 'hospitality.oracleindustry.com', 'oraclecloud-hospitality.com'],
    markers: ['oracle hospitality', 'opera reservation'],
    words: ['opera pms', 'opera cloud', 'oracle opera', 'oracle hospitality', 'micros opera'],
  },
  {
    name: 'Little Hotelier',
    aliases: ['littlehotelier'],
    hosts: ['littlehotelier.com', 'direct-book.com'],
    markers: ['littlehotelier'],
    words: ['little hotelier'],
  },
  {
    name: 'innRoad',
    aliases: ['inn road'],
    hosts: ['innroad.com'],
    markers: ['innroad'],
    words: ['innroad'],
  },
]

const spelled = (text: string): string => text.toLowerCase().replaceAll(/[^a-z0-9]+/g, '')

const bySpelling: ReadonlyMap<string, Fingerprint> = new Map(
  FINGERPRINTS.flatMap((f) => [f.name, ...f.aliases].map((name) => [spelled(name), f] as const)),
)

/** The product a person means by `text`, whatever its case, blanks and punctuation; undefined when it is not in the table. */
export function findFingerprint(text: string): Fingerprint | undefined {
  return bySpelling.get(spelled(text))
}
